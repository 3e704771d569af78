"""A mistake in the configuration file is named with its line, its key and what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec.device_agent.config.settings import load_config
from edgec.device_agent.errors import ConfigError

STREAM = '[streams.door]\nsource = "test:160x120@5"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[streams.door]\nmodel = "m"\n', ":1: streams.door.source: is missing"),
        ('[streams.door]\nsource = { kind = "file" }\n', ":2: streams.door.source: a source of kind file needs `path`"),
        ('[streams.door]\nsource = { kind = "test", fsp = 3 }\n', ":2: streams.door.source.fsp: unknown key; did you"),
        ('[streams.door]\nsource = 7\n', ":2: streams.door.source: must be a table"),
        ('[streams.door]\nsource = "camera:x"\n', ":2: streams.door.source: 'camera:x' is not a source: write"),
        (STREAM + "max_fps = -3\n", ":3: streams.door.max_fps: must be more than 0"),
        (STREAM + 'policy = "latest"\n', ":3: streams.door.policy: must be 'newest' or 'every'"),
        (STREAM + 'labels = "person"\n', ":3: streams.door.labels: must be a list"),
        (STREAM + 'model = "det"\n[models.detector]\n', ":3: streams.door.model: there is no [models.det]"),
        (STREAM + 'cascade = { model = "n" }\n', ":3: streams.door.cascade.model: there is no [models.n]"),
        (
            STREAM + '[[streams.door.rules]]\nname = "r"\nkind = "dwell"\nzone = "hall"\n',
            ":6: streams.door.rules[1].zone: there is no zone hall; add it under [[streams.door.zones]]",
        ),
        (
            STREAM + '[[streams.door.zones]]\nname = "z"\npolygon = [[0, 0], [1, 1]]\n',
            ":5: streams.door.zones[1].polygon: needs 3 entries or more, not 2",
        ),
        ('[stream.door]\nsource = "test"\n', ":1: stream: unknown key; did you mean streams?"),
        ('[streams."the door"]\nsource = "test"\n', ":1: streams.the door: a name has up to 64 letters"),
        ("[view]\nenabled = 7\n", ":2: view.enabled: must be true or false"),
        ("[capture]\nfaces = \"f\"\n", ":2: capture.faces: there is no [models.f] in this file; add [models.f]"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert f"{path}{said}" in str(caught.value)
