"""A push ends with what lies here being on Kaggle, and says so only then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kit.offline.errors import BundleError, KaggleError, SubmissionError
from kit.offline.files import sha256_of
from kit.offline.manifest import open_bundle
from kit.shipping import push as module
from kit.shipping.datasets import datasets_of
from kit.shipping.notebook import notebook_folder, render_notebook
from kit.shipping.push import push, pushed_of
from tests.fake_kaggle import Competition, FakeKaggle, Ran
from tests.shipping.conftest import World

NOWHERE = Path("/nonexistent")
"""No host files at home: nothing is compared."""


@pytest.fixture
def server(kaggle_server: FakeKaggle) -> FakeKaggle:
    """Where the notebook runs, and writes some table."""
    kaggle_server.competitions["coloured-tiles"] = Competition("coloured-tiles")
    kaggle_server.run = lambda pushed: Ran({"submission.csv": b"tile,kind\n"}, ["predicted\n"])
    return kaggle_server


def quietly(line: str) -> None:
    """Say nothing."""


def test_a_push_ends_with_everything_in_place(server: FakeKaggle, bundle: Path) -> None:
    """Two private datasets with every file once, a private notebook with both, run; then nothing to do."""
    said: list[str] = []
    pushed = push(bundle, NOWHERE, say=said.append)
    manifest = open_bundle(bundle)
    weights, thin = datasets_of(manifest)
    there = {slug: one for (_, slug), one in server.datasets.items()}
    assert set(there) == {weights.slug, manifest.bundle} and all(one.private for one in there.values())
    for each in (weights, thin):
        files = there[each.slug].versions[0].files
        assert {name: content == (bundle / name).read_bytes() for name, content in files.items()} == dict.fromkeys(
            each.files, True
        )
    request = server.kernels["tester", manifest.bundle].pushes[0].request
    assert request["datasetDataSources"] == [f"tester/{weights.slug}", f"tester/{manifest.bundle}"]
    assert request["competitionDataSources"] == ["coloured-tiles"]
    assert (request["enableInternet"], request["isPrivate"], request["machineShape"]) == (False, True, "NvidiaTeslaT4")
    assert any("not compared" in line for line in said)
    assert (pushed.version, pushed.done, pushed.datasets) == (1, True, {weights.slug: 1, manifest.bundle: 1})
    assert pushed_of(bundle) == pushed and not pushed.compared
    assert (notebook_folder(bundle) / "output" / "log.txt").read_text() == "predicted\n"
    assert sorted(path.name for path in bundle.parent.iterdir()) == [bundle.name, f"{bundle.name}-notebook"]

    server.calls.clear()
    said.clear()
    assert push(bundle, NOWHERE, say=said.append) == pushed
    assert not {name for name, _ in server.calls} & {"StartBlobUpload", "CreateDatasetVersion", "SaveKernel"}
    assert "not compared" in said[-1] and "nothing to do" in said[-1]


def test_another_bundle_of_the_same_weights_uploads_kilobytes(server: FakeKaggle, bundle: Path) -> None:
    """A new blend: the weights are there already, under the name that their content gives them."""
    push(bundle, NOWHERE, say=quietly)
    other = Path(shutil.copytree(bundle, bundle.parent / "kit-tiles-another"))
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "bundle": "kit-tiles-another"}))
    server.calls.clear()
    push(other, NOWHERE, say=quietly)
    sent = {body["name"]: body["contentLength"] for body in server.called("StartBlobUpload")}
    assert "manifest.json" in sent and not [name for name in sent if name.endswith(".safetensors")]
    assert sum(sent.values()) < 1_000_000


def test_other_answers_than_at_home_are_refused(server: FakeKaggle, bundle: Path, world: World) -> None:
    """The notebook ran green and answers otherwise: told, and not called done."""
    sample = (world.data / "sample_submission.csv").read_bytes()
    server.run = lambda pushed: Ran({"submission.csv": sample.replace(b"red", b"grey")})
    with pytest.raises(SubmissionError, match="answer as kit predict does"):
        push(bundle, world.data, say=quietly)
    found = pushed_of(bundle)
    assert found is not None and not found.done


def test_what_was_not_compared_is_compared_once_it_can_be(server: FakeKaggle, bundle: Path, world: World) -> None:
    """Host files that came later: the same version's table is fetched and compared, and is no longer called done."""
    sample = (world.data / "sample_submission.csv").read_bytes()
    server.run = lambda pushed: Ran({"submission.csv": sample.replace(b"red", b"grey")})
    assert push(bundle, NOWHERE, say=quietly).done
    with pytest.raises(SubmissionError, match="answer as kit predict does"):
        push(bundle, world.data, say=quietly)
    found = pushed_of(bundle)
    assert found is not None and not found.done and found.version == 1


def test_a_strict_notebook_stays_strict(server: FakeKaggle, bundle: Path) -> None:
    """What was rehearsed is pushed; kit notebook alone takes it back."""
    render_notebook(bundle, strict=True)
    push(bundle, NOWHERE, say=quietly)
    render_notebook(bundle, strict=False)
    push(bundle, NOWHERE, say=quietly)
    texts = [one.request["text"] for one in server.kernels["tester", bundle.name].pushes]
    assert ["strict=True" in text for text in texts] == [True, False]


def test_the_device_is_told(server: FakeKaggle, bundle: Path) -> None:
    """A GPU was asked for, and the notebook's log says that it ran without."""
    log = json.dumps({"devices": ["cpu"]}).encode()
    server.run = lambda pushed: Ran({"submission.csv": b"tile,kind\n", "submission-log.json": log})
    said: list[str] = []
    push(bundle, NOWHERE, say=said.append)
    assert "ran on cpu" in said and any("no NvidiaTeslaT4 worked there" in line for line in said)


def test_a_failed_run_is_told_and_pushed_again(server: FakeKaggle, bundle: Path) -> None:
    """Its own last words; the same command makes another version of the notebook, and no dataset."""
    good = server.run
    server.run = lambda pushed: Ran({}, ["RuntimeError: no kernel image is available\n"], "Notebook threw exception")
    with pytest.raises(KaggleError, match="Notebook threw exception; RuntimeError: no kernel image"):
        push(bundle, NOWHERE, say=quietly)
    server.run = good
    assert push(bundle, NOWHERE, say=quietly).version == 2
    assert len(server.called("CreateDataset")) == 2


def test_waiting_that_was_interrupted_goes_on(
    server: FakeKaggle, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second command waits for the version that the first one pushed."""
    server.kernel_polls = 10**6
    monkeypatch.setattr(module, "QUEUE_MINUTES", -30)
    with pytest.raises(KaggleError, match="within 0 minutes"):
        push(bundle, NOWHERE, say=quietly)
    server.kernels["tester", bundle.name].pushes[0].polls = 0
    assert push(bundle, NOWHERE, say=quietly).version == 1


def test_a_run_without_a_table_is_told(server: FakeKaggle, bundle: Path) -> None:
    """The run is green, and what the host reads is not among its files."""
    server.run = lambda pushed: Ran({"other.csv": b""})
    with pytest.raises(BundleError, match=r"submission\.csv among .*\nfound: +log\.txt, other\.csv"):
        push(bundle, NOWHERE, say=quietly)


def test_an_older_version_s_table_is_not_taken_for_this_one_s(server: FakeKaggle, bundle: Path) -> None:
    """What a version wrote is gone when another one is pushed."""
    push(bundle, NOWHERE, say=quietly)
    server.run = lambda pushed: Ran({"other.csv": b""})
    render_notebook(bundle, strict=True)
    with pytest.raises(BundleError, match=r"found: +log\.txt, other\.csv in"):
        push(bundle, NOWHERE, say=quietly)


def test_a_record_of_another_bundle_is_no_record(server: FakeKaggle, bundle: Path) -> None:
    """A bundle made anew under the same name is pushed anew, and cannot be taken for the one that ran."""
    push(bundle, NOWHERE, say=quietly)
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "notes": ["made anew"]}))
    assert pushed_of(bundle) is None
    pushed = push(bundle, NOWHERE, say=quietly)
    assert (pushed.version, pushed.datasets[bundle.name]) == (2, 2)
    assert pushed.manifest_sha256 == sha256_of(bundle / "manifest.json")


def test_a_damaged_bundle_sends_nothing(server: FakeKaggle, bundle: Path) -> None:
    """Every file is checked before Kaggle hears of it."""
    weights = next(bundle.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(BundleError, match=weights.name):
        push(bundle, NOWHERE, say=quietly)
    assert server.calls == []
