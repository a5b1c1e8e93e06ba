"""What became of runs and submissions: judged at home, and on the leaderboard."""
