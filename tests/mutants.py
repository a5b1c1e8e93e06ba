"""A lever that is turned off turns a test red: each row of MUTANTS breaks one line of a copy of kit/ and runs one test.

Run by `make test-full`. The copy lies in a scratch folder; a process that has imported the libraries, and nothing of
kit, forks a child per test, so that a mutant costs a second and not the imports.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 120
"""After which a child is ended: a mutant may loop for ever."""
LIBRARIES = (
    "albumentations", "cv2", "numpy", "pandas", "pydantic", "safetensors.torch", "scipy.sparse",
    "segmentation_models_pytorch", "sklearn.metrics", "timm", "torch", "torch.utils.data",
)  # fmt: skip
MIX, LOOP, OPTIM, LOSSES = (f"kit/training/{name}.py" for name in ("mix", "loop", "optim", "losses"))
FANOUT = "kit/training/fanout.py"
SAMPLES, RECIPE, PRECISION = (f"kit/training/{name}.py" for name in ("samples", "recipe", "precision"))


class Mutant(NamedTuple):
    """A lever, the text of a file that pulls it, what turns it off, and a test that must fail then."""

    lever: str
    file: str
    find: str
    put: str
    test: str


# fmt: off
MUTANTS = [Mutant(*row) for row in (
    ("mixup", MIX, "if on and (recipe.mixup or recipe.cutmix)", "if on and recipe.cutmix",
     "test_mix.py::test_targets_stay_distributions_and_tell_the_share[how0-5]"),
    ("cutmix", MIX, "if on and (recipe.mixup or recipe.cutmix)", "if on and recipe.mixup",
     "test_mix.py::test_targets_stay_distributions_and_tell_the_share[how1-5]"),
    ("mix_prob", MIX, "prob=recipe.mix_prob", "prob=1.0",
     "test_mix.py::test_a_share_of_the_batches_is_mixed[0.5-25-75]"),
    ("mixing in the loop", LOOP,
     "inputs, wanted, weight = mix(inputs, wanted, weights[positions].to(device), beside)",
     "weight = weights[positions].to(device)", "test_loop.py::test_smoothed_targets_are_learned"),
    ("erasing", MIX, "_erasing(recipe, device) if on and recipe.erasing else None", "None",
     "test_mix.py::test_erasing_is_noise_of_its_own_per_pixel[shape0]"),
    ("erasing_count", MIX, "max_count=recipe.erasing_count", "max_count=1",
     "test_mix.py::test_erased_images_have_up_to_so_many_rectangles[3]"),
    ("mix_off_epochs", MIX, "on = epoch < recipe.epochs - recipe.mix_off_epochs", "on = True",
     "test_mix.py::test_the_last_epochs_see_images_as_they_are"),
    ("mix_off_epochs in the loop", LOOP, "batch_mix(recipe, device.type, epoch)", "batch_mix(recipe, device.type)",
     "test_loop.py::test_weights_count_once[all]"),
    ("repeats", SAMPLES, "self.epoch, self.rows, self.recipe.repeats)", "self.epoch, self.rows, 1)",
     "test_samples.py::test_every_draw_is_another"),
    ("sampling=balanced of several labels", SAMPLES, "np.where(without, 1 / max(without.sum(), 1), rare)",
     "np.ones(len(rare))", "test_samples.py::test_rows_of_several_labels_are_drawn_as_their_rarest"),
    ("sampling=balanced by class", SAMPLES, "_shares(1 / labels.map(labels.value_counts()).to_numpy(np.float64))",
     "_shares(np.ones(len(labels)))", "test_samples.py::test_balanced_sampling_draws_every_class_as_often[task0]"),
    ("sampling=weighted", SAMPLES, "return _shares(weight)", "return _shares(np.ones_like(weight))",
     "test_samples.py::test_weighted_sampling_follows_the_column"),
    ("sampling=weighted leaves the loss alone", LOOP, 'if recipe.sampling == "weighted":', "if False:",
     "test_loop.py::test_weights_count_once[weighted]"),
    ("sampling in the loop", LOOP, "Steps(recipe, fold.number, len(fold.train), chances)",
     "Steps(recipe, fold.number, len(fold.train))", "test_loop.py::test_balanced_draws_reach_the_network"),
    ("label_smoothing", LOOP,
     "wanted = task.smooth(wanted, recipe.label_smoothing) if recipe.label_smoothing else wanted", "pass",
     "test_loop.py::test_smoothed_targets_are_learned"),
    ("loss", LOOP, "with_loss(recipe, competition.task, fold.labelled, fold.learned)", "competition.task",
     "test_losses.py::test_class_weights_come_from_the_rows_that_train"),
    ("loss=ce", LOSSES, 'if name == "ce":\n        return _cross_entropy(**weights)',
     'if name == "ce":\n        return _focal(True, **weights)',
     "test_losses.py::test_cross_entropy_is_torchs[None]"),
    ("loss=bce", LOSSES, "name = recipe.loss or", 'name = recipe.loss.replace("bce", "ce") if recipe.loss else',
     "test_losses.py::test_binary_cross_entropy_takes_a_threshold_and_class_weights"),
    ("target_threshold", LOSSES, "binary = BinaryCrossEntropy(**arguments, ", "binary = BinaryCrossEntropy(",
     "test_losses.py::test_binary_cross_entropy_takes_a_threshold_and_class_weights"),
    ("loss=focal", LOSSES, ".clamp_min(1e-12) ** gamma", ".clamp_min(1e-12) ** 0",
     "test_losses.py::test_focal_weighs_what_is_known_less[2.0-task0]"),
    ("loss=asl", LOSSES, "AsymmetricLossMultiLabel(**arguments, ",
     "AsymmetricLossMultiLabel(gamma_neg=0, gamma_pos=0, clip=0, ", "test_losses.py::test_asymmetric_is_timms"),
    ("class_weights", LOSSES, "weights = compute_class_weights(counts, len(frame), recipe.class_weights)",
     "weights = compute_class_weights(counts * 0 + 1, len(frame), recipe.class_weights)",
     "test_losses.py::test_cross_entropy_is_torchs[inv_freq]"),
    ("class_weights of the rows that train", LOOP, "with_loss(recipe, competition.task, fold.labelled, fold.learned)",
     "with_loss(recipe, competition.task, fold.every, fold.learned)",
     "test_losses.py::test_class_weights_come_from_the_rows_that_train"),
    ("row weights in a recipe's loss", LOSSES, "weighted_mean(losses(outputs.float(), targets), weight)",
     "losses(outputs.float(), targets).mean()", "test_losses.py::test_a_row_of_weight_0_changes_nothing[ce]"),
    ("row weights", LOOP, "weights = torch.from_numpy(row_weights(fold.train))",
     "weights = torch.ones(len(fold.train))", "test_loop.py::test_weights_count_once[all]"),
    ("layer_decay", OPTIM, "layer_decay=recipe.layer_decay)", "layer_decay=1.0)",
     "test_optim.py::test_layer_decay_reaches_the_learning_rates"),
    ("head_lr_scale", OPTIM, "scale * recipe.head_lr_scale", "scale",
     "test_optim.py::test_the_head_learns_faster[None]"),
    ("head_init_scale", OPTIM, "value.mul_(recipe.head_init_scale)", "value.mul_(1.0)",
     "test_optim.py::test_the_head_begins_smaller[0.0-test_resnet-head0]"),
    ("head_init_scale in the loop", LOOP, "    scale_heads(recipe, model)\n", "",
     "test_loop.py::test_a_head_of_zeros_is_what_the_first_step_finds"),
    ("no decay on norms and biases", OPTIM,
     "param_groups_weight_decay(body, recipe.weight_decay, no_weight_decay_list=spared)",
     '[{"params": list(body.parameters()), "weight_decay": recipe.weight_decay}]',
     "test_optim.py::test_norms_and_biases_do_not_decay[test_resnet-more0]"),
    ("no decay on what the network spares", OPTIM, "spared = set(named()) if named else set()", "spared = set()",
     "test_optim.py::test_norms_and_biases_do_not_decay[test_vit-more0]"),
    ("warmup_epochs", OPTIM, "warmup_epochs=warmup,", "warmup_epochs=0,",
     "test_optim.py::test_warm_up_and_the_end_of_cosine"),
    ("min_lr", OPTIM, "min_lr=recipe.min_lr", "min_lr=0.0", "test_optim.py::test_cosine_ends_at_min_lr"),
    ("schedule", OPTIM, "sched=recipe.schedule", 'sched="cosine"',
     "test_optim.py::test_schedules_that_hold_the_rate"),
    ("schedule in the loop", LOOP, "schedule.step_update(update)", "pass",
     "test_loop.py::test_accumulation_updates_as_the_larger_batch_does"),
    ("accumulate", LOOP, "grouped(loader, recipe.accumulate, asked)", "grouped(loader, 1, asked)",
     "test_loop.py::test_accumulation_learns_as_the_larger_batch_does[4-2-False]"),
    ("accumulate: the remainder", LOOP, "scaler.scale(of_part * of_update)",
     "scaler.scale(of_part / recipe.accumulate)",
     "test_loop.py::test_accumulation_learns_as_the_larger_batch_does[4-3-False]"),
    ("accumulate: unequal batches", LOOP, "scaler.scale(of_part * of_update)", "scaler.scale(of_part / len(batches))",
     "test_loop.py::test_accumulation_learns_as_the_larger_batch_does[6-2-False]"),
    ("clip_grad", LOOP, "if recipe.clip_grad:", "if False:",
     "test_loop.py::test_gradients_are_clipped_as_the_recipe_says[norm]"),
    ("clip_mode=agc", LOOP, "recipe.clip_grad, recipe.clip_mode)", 'recipe.clip_grad, "norm")',
     "test_loop.py::test_gradients_are_clipped_as_the_recipe_says[agc]"),
    ("clip_mode=agc spares the head", LOOP, 'heads_of(model) if recipe.clip_mode == "agc" else []', "[]",
     "test_loop.py::test_adaptive_clipping_spares_the_head"),
    ("optimizer", OPTIM, "opt=name", 'opt="sgd"', "test_optim.py::test_the_recipe_names_the_optimizer"),
    ("weight_decay", OPTIM, "param_groups_weight_decay(body, recipe.weight_decay, no",
     "param_groups_weight_decay(body, 0.0, no", "test_optim.py::test_norms_and_biases_do_not_decay[test_resnet-more0]"),
    ("warmup_lr", OPTIM, "recipe.lr / 100 if recipe.warmup_lr is None else recipe.warmup_lr", "recipe.lr / 100",
     "test_optim.py::test_the_warm_up_begins_with_warmup_lr"),
    ("model", LOOP, "else dict(recipe.model)", "else {}", "test_loop.py::test_arguments_reach_the_network"),
    ("channels_last", LOOP, "network(channels_last(inputs[part])", "network(inputs[part].contiguous()",
     "test_loop.py::test_images_come_channels_last"),
    ("pseudo", FANOUT, "soft.of(number)", "soft.of(-1)",
     "test_pseudo.py::test_a_student_learns_from_its_own_teacher_alone"),
    ("--fold all", FANOUT, "(ground.frame, ground.frame.head(0)) if everything", "split(ground.frame, 0) if everything",
     "test_pseudo.py::test_a_fit_on_all_rows_trains_on_each_and_ships"),
    ("--seeds", FANOUT, "for recipe in recipes:", "for recipe in recipes[:1]:",
     "test_pseudo.py::test_a_seed_that_diverges_does_not_stop_the_others"),
    ("aux", "kit/offline/tasks.py", "share * head.loss(some, of, weight)", "0 * head.loss(some, of, weight)",
     "test_loop.py::test_a_further_head_changes_training_and_not_what_is_predicted"),
    ("freeze_epochs", OPTIM, "frozen = epoch < recipe.freeze_epochs", "frozen = False",
     "test_optim.py::test_a_frozen_backbone_learns_nothing_until_it_is_let_go"),
    ("freeze_epochs in the loop", LOOP, "set_frozen(recipe, model, epoch)", "pass",
     "test_loop.py::test_the_head_alone_learns_at_first"),
    ("drop_rate", LOOP, "        recipe.drop_rate,\n", "        0.0,\n",
     "test_loop.py::test_dropout_and_stochastic_depth_reach_the_network"),
    ("drop_path", LOOP, "        recipe.drop_path,\n", "        0.0,\n",
     "test_loop.py::test_dropout_and_stochastic_depth_reach_the_network"),
    ("grad_checkpointing", LOOP, "if recipe.grad_checkpointing:", "if False:",
     "test_loop.py::test_gradient_checkpointing_reaches_timm_or_is_refused"),
    ("compile", LOOP, "torch.compile(model) if recipe.compile else model", "model",
     "test_loop.py::test_a_compiled_network_trains_and_its_weights_load[aot_eager]"),
    ("ema", LOOP, "ModelEmaV3(model, decay=recipe.ema, use_warmup=True) if recipe.ema else None", "None",
     "test_loop.py::test_the_average_of_the_weights_is_shipped"),
    ("ema's warm-up", LOOP, "decay=recipe.ema, use_warmup=True", "decay=recipe.ema, use_warmup=False",
     "test_loop.py::test_the_average_of_the_weights_is_shipped"),
    ("patience", LOOP, "if recipe.patience and", "if False and",
     "test_loop.py::test_patience_ends_a_fold_and_says_so[last]"),
    ("keep=best", LOOP, '    if best and recipe.keep == "best":\n        load_best',
     "    if False:\n        load_best", "test_loop.py::test_the_best_epoch_is_kept_and_said"),
    ("start_size", SAMPLES, "self.at_size(self.recipe.size_at(epoch))", "self.at_size(self.recipe.size)",
     "test_samples.py::test_images_and_masks_grow_with_the_epochs[0]"),
    ("start_size grows", RECIPE, "round((small + share * (full - small)) / 32) * 32", "small",
     "test_recipe.py::test_images_grow_from_start_size_to_image_size[64-224-16]"),
    ("crop_pct", LOOP, "crop = recipe.crop_pct or config.crop", "crop = config.crop",
     "test_loop.py::test_crop_and_interpolation_travel[0.5-0.5]"),
    ("interpolation", LOOP, "interpolation=config.interpolation", 'interpolation="bilinear"',
     "test_loop.py::test_crop_and_interpolation_travel[None-0.95]"),
    ("precision", LOOP, 'precision_of(limits["precision"], device)', 'precision_of("fp32", device)',
     "test_loop.py::test_the_network_trains_in_the_precision_of_the_recipe[bf16-dtype0]"),
    ("precision=auto asks for a gain", PRECISION, "cpu_has_bf16() and gain_of_bf16(model, inputs, **beside) >= GAIN",
     "cpu_has_bf16()", "test_precision.py::test_auto_on_the_cpu_asks_for_instructions_and_a_gain[True-1.1-fp32]"),
    ("splitting: shares of the loss", LOOP, "weight[part]) * share", 'weight[part]) / limits["parts"]',
     "test_loop.py::test_batches_are_split_where_memory_runs_out[1]"),
    ("splitting: parts", LOOP, 'in_parts(weight, -(-recipe.batch_size // limits["parts"]))',
     "in_parts(weight, recipe.batch_size)",
     "test_loop.py::test_batches_are_split_where_memory_runs_out[1]"),
    ("splitting: gradients of a failed pass", LOOP,
     "        optimizer.zero_grad(set_to_none=True)\n        summed, ",
     '        if limits["parts"] == 1:\n            optimizer.zero_grad(set_to_none=True)\n        summed, ',
     "test_loop.py::test_batches_are_split_where_memory_runs_out[2]"),
    ("splitting: remembered", LOOP, '"limits": limits, "machine"', '"limits": {**limits, "parts": 1}, "machine"',
     "test_loop.py::test_a_fold_that_ran_out_of_memory_goes_on_in_parts"),
    ("a gradient that is no number", LOOP, "if not scaler.is_enabled():", "if False:",
     "test_loop.py::test_a_gradient_that_is_no_number_stops_the_fold[None-1]"),
    ("seed_step", LOOP, "seed_step(recipe.seed, fold.number, number)", "pass",
     "test_loop.py::test_a_state_from_any_place_goes_on_alike[2]"),
    ("cache", LOOP, "stored, fold.cache, recipe.cache, fold.say)", 'stored, fold.cache, "off", fold.say)',
     "test_cache.py::test_folds_and_recipes_share_what_was_read"),
    ("external rows are not scored", "kit/training/folds.py", "frame[held & scored]", "frame[held]",
     "test_folds.py::test_splitting_keeps_unscored_rows_of_a_held_out_group_from_training"),
    ("tta", LOOP, "evaluate(fold, setup, final, device, recipe.tta, fold.folder)",
     'evaluate(fold, setup, final, device, ("identity",), fold.folder)',
     "test_loop.py::test_oof_is_the_mean_over_the_views"),
)]
# fmt: on
Verdict = dict[str, Any]
"""code: pytest's exit code. failed: of each test that did, [phase, type of the exception]. said: the output."""


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Callable[[Sequence[str]], Verdict]]]:
    """A copy of the code, and what runs tests of it in a forked child."""
    folder = tmp_path_factory.mktemp("laboratory")
    for name in ("kit", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(folder / "tests" / "mutants.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=environment, **pipes) as server:  # type: ignore[call-overload]

        def run(tests: Sequence[str]) -> Verdict:
            server.stdin.write(json.dumps([f"tests/training/{test}" for test in tests]) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield folder, run
        server.stdin.close()


pytestmark = pytest.mark.full


def test_the_tests_are_green_before(laboratory: Any) -> None:
    """Without a mutation each test of the table passes in the copy: what turns one red is the mutation."""
    _, run = laboratory
    verdict = run(sorted({mutant.test for mutant in MUTANTS}))
    assert (verdict["code"], verdict["failed"]) == (0, []), verdict["said"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.lever)
def test_a_lever_that_is_off_turns_a_test_red(laboratory: Any, mutant: Mutant) -> None:
    """The test runs, and an assertion in it fails: no error of import, collection, set-up or of the mutated line."""
    folder, run = laboratory
    path = folder / mutant.file
    text = path.read_text()
    assert text.count(mutant.find) == 1, f"{mutant.find!r} stands {text.count(mutant.find)} times in {mutant.file}"
    path.write_text(text.replace(mutant.find, mutant.put))
    try:
        verdict = run([mutant.test])
    finally:
        path.write_text(text)
    assert verdict["code"] == 1, verdict["said"]
    assert verdict["failed"] in (["call", "AssertionError"], ["call", "Failed"]), verdict["said"]


class Failures:
    """A plugin of pytest that notes phase and exception of what fails."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        if call.excinfo is not None:
            self.seen += [call.when, call.excinfo.typename]


def _child(tests: list[str], out: Path) -> None:
    """Run tests of the copy; write a verdict, less what was said, to `out`."""
    signal.alarm(SECONDS)
    failures = Failures()
    code = pytest.main(["-n0", "-m", "", "-p", "no:cacheprovider", "--assert=plain", *tests], plugins=[failures])
    import kit

    assert Path(kit.__file__).is_relative_to(Path.cwd()), f"{kit.__file__} is not the copy"
    out.write_text(json.dumps({"code": int(code), "failed": failures.seen}))


def _serve() -> None:
    """For each line of test ids a verdict, from a child that is forked here, where the libraries are imported."""
    for name in LIBRARIES:
        __import__(name)
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as scratch:
            said, out = Path(scratch) / "said.txt", Path(scratch) / "verdict.json"
            child = os.fork()
            if child == 0:
                with said.open("w") as file:
                    os.dup2(file.fileno(), 1)
                    os.dup2(file.fileno(), 2)
                try:
                    _child(json.loads(line), out)
                except BaseException:  # noqa: BLE001 - a child never returns
                    traceback.print_exc()
                sys.stdout.flush()
                os._exit(0)
            os.waitpid(child, 0)
            verdict = json.loads(out.read_text()) if out.is_file() else {"code": None, "failed": []}
            print(json.dumps({**verdict, "said": said.read_text()[-6000:]}), flush=True)


if __name__ == "__main__":
    sys.path[0] = str(Path.cwd())
    _serve()
