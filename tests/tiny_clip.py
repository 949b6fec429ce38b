"""A CLIP of open_clip's own classes, small enough for tests: two towers, real tokenizer, random weights."""

import json
from pathlib import Path

NAME = "boldreams-tiny"
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def register(folder: Path) -> str:
    """Make the model known to open_clip in this process; returns its name."""
    import open_clip

    path = folder / f"{NAME}.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    return NAME
