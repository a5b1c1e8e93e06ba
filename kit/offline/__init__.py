"""What travels to Kaggle: imports only what the image has preinstalled."""
