"""From a checkpoint to a model that is served: fuse, ONNX, parity, a version in the repository, a TensorRT engine."""

from __future__ import annotations

from pathlib import Path

from lostgan_export import parity
from lostgan_export.engine import build_engine
from lostgan_export.fused import FusedGenerator, fuse
from lostgan_export.onnx_export import export_onnx, set_manifest, tool_versions
from lostgan_serve.contract import MAX_SLOTS
from lostgan_serve.errors import CheckpointError, LostganError, OutputError
from lostgan_serve.manifest import Manifest, Parity, Precision
from lostgan_serve.model_folder import ModelFolder, ModelVersion, check_model_name, model_name
from lostgan_serve.progress import SILENT, Progress
from lostgan_serve.runners.tensorrt import Target, bindings
from lostgan_serve.triton.configuration import configuration_files, write_configuration
from lostgan_serve.vocabulary import Vocabulary
from lostgan_train.networks.checkpoint import Checkpoint, first_not_finite


def publish(
    checkpoint: Checkpoint,
    repository: Path,
    name: str | None = None,
    *,
    max_objects: int | None = None,
    max_batch: int = 8,
    precision: Precision = "fp32",
    mask_stages: int | None = None,
    target: Target | None = None,
    replace: bool = False,
    progress: Progress = SILENT,
) -> ModelFolder:
    """Publish a generator as the newest version of a model in a Triton model repository.

    The generator is fused, exported to ONNX, compared with the checkpoint's own on a few layouts, and published with
    its manifest and configuration.

        publish(load_checkpoint(Path("run/generator.safetensors")), Path("triton_repo"), "coast")

    name: of the model; by default "lostgan_" and its resolution. max_objects: objects that a layout may have, 1 to 254;
    by default as many as the vocabulary is made for. max_batch: layouts that a server batches at most. precision: of
    convolutions and matrix products, in the graph itself. mask_stages: the last stage that refines masks, 0 for none;
    None for all. target: the TensorRT to build an engine for, beside the ONNX file. replace: take the place of the
    newest version.

    Raises LostganError for a name or number that does not go, before anything is done; ParityError where the exported
    model differs; OutputError; ModelError and DeviceError where no engine can be built; MissingExtraError. Where a step
    fails the repository stays as it was, but for the last two: a version without its configurations is told of by the
    error, and one whose engine cannot be built stays as it is.
    """
    if target is not None:
        bindings(target)
    _check_mask_stages(checkpoint, mask_stages)
    manifest = checkpoint.manifest(
        _slots(checkpoint.vocabulary, max_objects), max_batch, precision, tool_versions(), mask_stages
    )
    name = model_name(manifest.resolution) if name is None else name
    folder = ModelFolder(repository / check_model_name(name))
    if checkpoint.weights == "untrained":
        progress.note("note: these weights are untrained: the model has its full speed and generates noise")
    with folder.new_version(replace=replace) as version:
        manifest = _export(checkpoint, manifest, version, progress)
        configuration_files(folder.name, manifest)  # one that cannot be made is to fail while nothing is published
    _configure(folder, manifest)
    if target is not None:
        build_engine(folder.newest(), manifest, target, folder.timing_cache, progress)
    return folder


def _slots(vocabulary: Vocabulary, max_objects: int | None) -> int:
    """Count a slot for each object, and one for the background object where layouts have it. Raises LostganError."""
    if max_objects is None:
        return vocabulary.slots
    most = MAX_SLOTS - vocabulary.background
    if not 1 <= max_objects <= most:
        why = (
            f"{vocabulary.name} needs a slot for the background besides, and there"
            if vocabulary.background
            else "there"
        )
        raise LostganError(f"--max-objects {max_objects}: {why} are {MAX_SLOTS} at most; give 1 to {most}")
    return max_objects + vocabulary.background


def _check_mask_stages(checkpoint: Checkpoint, mask_stages: int | None) -> None:
    try:
        checkpoint.generator.config.refined_stages(mask_stages)
    except ValueError as error:
        raise LostganError(f"--mask-stages: {error}") from error


def _export(checkpoint: Checkpoint, manifest: Manifest, version: ModelVersion, progress: Progress) -> Manifest:
    """Write the fused generator and its manifest, to which the measured parity is added. Raises CheckpointError,
    LostganError and ParityError."""
    with progress.stage("fuse"):
        fused = _fused(checkpoint, manifest)
    with progress.stage("export to ONNX"):
        export_onnx(fused, manifest, version.onnx)
    with progress.stage("compare with PyTorch"):
        measured = _measure(version, fused, manifest, checkpoint)
    for line in parity.describe(measured):
        progress.note(f"  {line}")
    parity.check(measured, manifest.precision)
    manifest = manifest.model_copy(update={"parity": measured})
    set_manifest(version.onnx, manifest)
    version.write_manifest(manifest)
    return manifest


def _fused(checkpoint: Checkpoint, manifest: Manifest) -> FusedGenerator:
    """Fuse a generator. Raises CheckpointError where it holds weights that are not finite, and LostganError where some
    are too large for the precision."""
    generator = checkpoint.generator
    if (name := first_not_finite(generator.state_dict().items())) is not None:
        raise CheckpointError(f"{name}: the generator's weights are not finite; take an earlier checkpoint of that run")
    fused = fuse(generator, manifest.precision, manifest.mask_stages)
    if (name := first_not_finite((*fused.named_parameters(), *fused.named_buffers()))) is not None:
        raise LostganError(f"--precision {manifest.precision}: {name}: has weights too large for it; give another")
    return fused


def _measure(version: ModelVersion, fused: FusedGenerator, manifest: Manifest, checkpoint: Checkpoint) -> Parity:
    runner, runtime = parity.open_exported(version.onnx, fused, manifest)
    try:
        return parity.measure(runner, checkpoint.generator, runtime)
    finally:
        runner.close()


def _configure(folder: ModelFolder, manifest: Manifest) -> None:
    try:
        write_configuration(folder, manifest)
    except OutputError as error:
        raise OutputError(
            f"{error}; the new version is published, but the model's configuration is not: mend this, then export "
            "again with --replace"
        ) from error
