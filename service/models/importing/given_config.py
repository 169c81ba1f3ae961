"""The architecture of a file that has only weights, from a config that is given or known."""

from dataclasses import replace

from service.errors import BadCheckpoint
from service.models.importing.assumptions import Assumptions
from service.models.importing.checkpoint import Checkpoint, JsonObject
from service.models.importing.textgenrnn import OPTIONS, is_textgenrnn, textgenrnn_architecture


def with_config(
    checkpoint: Checkpoint, config: JsonObject | None, assumptions: Assumptions
) -> Checkpoint:
    """Return the checkpoint with the architecture that `config`, or its layers' names, tell.

    `config` is Keras's `to_json()` or textgenrnn's own config. Raises BadCheckpoint if it is
    neither, or of another model.
    """
    if config is not None and "class_name" in config:
        if checkpoint.config is not None:
            raise BadCheckpoint("the file has its own architecture; leave config out")
        assumptions.note("the architecture is that of the config that is given")
        return replace(checkpoint, config=config)
    if config is not None and checkpoint.config is not None:
        raise BadCheckpoint("the file has its own architecture; leave config out")
    if config is not None and not OPTIONS.keys() & config.keys():
        raise BadCheckpoint(
            "the config is neither the architecture of a Keras model (`model.to_json()`) nor "
            "textgenrnn's config"
        )
    if checkpoint.config is None and is_textgenrnn(checkpoint.layers):
        assumptions.note("the layers have textgenrnn's names: its network is taken")
        network = textgenrnn_architecture(checkpoint.layers, config, assumptions)
        return replace(checkpoint, config=network)
    return checkpoint
