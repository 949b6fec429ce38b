"""What commands share, by subject: types, the environment, output and errors, data, the machine, stores, models."""

from boldreams_cli.commands.options.data import (
    betas_option,
    cache_option,
    captions_option,
    data_options,
    dataset_of,
    nsd_option,
    responses_of,
    responses_or_none,
    root_for,
    subject_option,
    subjects_there,
    the_subject,
)
from boldreams_cli.commands.options.environment import Command, command, option
from boldreams_cli.commands.options.fits import InputChoice, input_options, readout_options, that_readouts_have
from boldreams_cli.commands.options.machine import device_option, memory_option, pick_device, seed_option
from boldreams_cli.commands.options.models import ModelChoice, model_options, moved_weights_option
from boldreams_cli.commands.options.output import Output, output_options
from boldreams_cli.commands.options.stores import choose_backbone, choose_store, store_option
from boldreams_cli.commands.options.targets import bound_options, target_options
from boldreams_cli.commands.options.types import (
    BYTES,
    PERCENT,
    READOUT,
    RECIPE,
    SEED,
    SUBJECT,
    WITH_RECIPES,
    CommaList,
    NamedValue,
    Real,
)

__all__ = [
    "BYTES",
    "PERCENT",
    "READOUT",
    "RECIPE",
    "SEED",
    "SUBJECT",
    "WITH_RECIPES",
    "CommaList",
    "Command",
    "InputChoice",
    "ModelChoice",
    "NamedValue",
    "Output",
    "Real",
    "betas_option",
    "bound_options",
    "cache_option",
    "captions_option",
    "choose_backbone",
    "choose_store",
    "command",
    "data_options",
    "dataset_of",
    "device_option",
    "input_options",
    "memory_option",
    "model_options",
    "moved_weights_option",
    "nsd_option",
    "option",
    "output_options",
    "pick_device",
    "readout_options",
    "responses_of",
    "responses_or_none",
    "root_for",
    "seed_option",
    "store_option",
    "subject_option",
    "subjects_there",
    "target_options",
    "that_readouts_have",
    "the_subject",
]
