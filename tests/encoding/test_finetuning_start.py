"""Finetuning begins with what the store that it goes on from was made of."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from boldreams_cli.encoding.finetuning import start
from boldreams_cli.features import backbones


@pytest.mark.parametrize("form", ["rectified", "signed"])
def test_layers_and_form_of_maps_are_those_of_the_store(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ["layer1", "layer2"]
    made = backbones.load("timm:test_resnet", "random", 0, chosen, trainable=True)
    spec = {
        "weights_digest": made.digest,
        "layers": {name: [1, 1, 1] for name in chosen},
        "preprocessing": {"map": form} if form == "rectified" else {},
    }
    store = SimpleNamespace(spec=spec, weights="random:0", fingerprint="abc", path=Path("store"))
    monkeypatch.setattr(start, "stores", lambda cache, name: [store])
    found, same = start.load_start(Path(), "timm:test_resnet", None, None, 0)
    assert list(found.layers) == chosen
    assert found.rectified == (form == "rectified")
    assert same == [store]
