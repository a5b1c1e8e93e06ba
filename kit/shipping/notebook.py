"""The submission notebook: a template without logic, filled with what one bundle is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from kit.offline.contract import Competition
from kit.offline.files import sha256_of, write_json, write_whole
from kit.offline.manifest import FILE, Manifest, open_bundle
from kit.offline.predict import competition_in
from kit.shipping.datasets import datasets_of

TEMPLATE = Path(__file__).parents[2] / "notebooks" / "submit.ipynb"


def notebook_folder(bundle: Path) -> Path:
    """Where a bundle's notebook lies: beside the bundle."""
    return bundle.parent / f"{bundle.name}-notebook"


def render_notebook(bundle: Path, owner: str = "OWNER", strict: bool | None = None) -> Path:
    """Write `<bundle>-notebook/{submit.ipynb, kernel-metadata.json}` beside the bundle; returns the folder.

    strict: the notebook submits no prior, neither first nor for a row; None: as the notebook that lies there, if any.
    A function of the bundle and these: the same bundle gives the same bytes. Raises BundleError for a bundle that is
    not whole.
    """
    bundle = Path(bundle).resolve()
    manifest = open_bundle(bundle)
    competition = competition_in(bundle, manifest)
    metadata = kernel_metadata(manifest, competition, owner)
    folder = notebook_folder(bundle)
    there = folder / metadata["code_file"]
    if strict is None:
        strict = there.is_file() and "strict=True" in there.read_text()
    filled = {
        "bundle": manifest.bundle,
        "slug": manifest.slug,
        "score": _score(manifest),
        "manifest_sha256": sha256_of(bundle / FILE),
        "file": competition.rules.file,
        "verb": "serve" if competition.rules.kind == "server" else "submit",
        "minutes": str(competition.rules.minutes),
        "strict": str(strict),
    }
    folder.mkdir(exist_ok=True)
    write_whole(there, rendered(TEMPLATE, filled))
    write_json(folder / "kernel-metadata.json", metadata)
    return folder


def kernel_metadata(manifest: Manifest, competition: Competition, owner: str) -> dict[str, Any]:
    """What `kaggle kernels push` reads, every field written: the client's own default for the internet is on.

    The title equals the slug, since Kaggle makes the slug from the title. A bundle's name is legal for both.
    """
    rules = competition.rules
    return {
        "id": f"{owner}/{manifest.bundle}",
        "title": manifest.bundle,
        "code_file": "submit.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": bool(rules.accelerator) and not str(rules.accelerator).startswith("Tpu"),
        "enable_tpu": False,
        "enable_internet": False,
        "machine_shape": rules.accelerator or "",
        "dataset_sources": [f"{owner}/{each.slug}" for each in datasets_of(manifest)],
        "competition_sources": [manifest.slug],
        "kernel_sources": [],
        "model_sources": [],
        "keywords": [],
        "docker_image_pinning_type": "original",  # the rerun gets the image that the notebook was tried on
    }


def _score(manifest: Manifest) -> str:
    pooled, units = manifest.score.get("pooled"), manifest.score.get("units")
    text = "undefined" if pooled is None else f"{pooled:.5f} over {units} units"
    return "; ".join([text, *manifest.notes])


def rendered(template: Path, values: Mapping[str, str]) -> bytes:
    """A template with `{name}` of the known names replaced, other braces being code, and without outputs."""
    notebook = nbformat.read(template, as_version=4)
    known = re.compile(r"\{(" + "|".join(values) + r")\}")
    for cell in notebook.cells:
        cell.source = known.sub(lambda match: values[match.group(1)], cell.source)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.validate(notebook)
    return (nbformat.writes(notebook) + "\n").encode()
