"""The steps of the demo, each with the tools that a user would use."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from edgec.cli.compiled import show as show_compiled
from edgec.cli.console import emit_json, err, out, styled
from edgec.cli.demo.processes import DemoFailed, Process, edgec, start
from edgec.cli.progress import TerminalProgress
from edgec.compiler.pipeline import CompileResult
from edgec.fleet.client.connection import FleetClient
from edgec.fleet.client.follow import follow
from edgec.fleet.client.push import push_artifact
from edgec.targets.errors import EdgecError, UsageError

DEVICE = "demo-camera"
STREAM = "gate"
ZOO = ("shapes-v1", "shapes-v2")
START_S = 60.0
ROLLOUT_S = 90.0
LOOK_S = 0.25
LINES = 12


@dataclass(frozen=True)
class Options:
    """The options of the command."""

    camera: str | None
    model: Path | None
    serve: bool
    watch_s: float
    as_json: bool


@dataclass
class Demo:
    """State that the steps share."""

    options: Options
    folder: Path
    stack: ExitStack
    began: float = field(default_factory=time.monotonic)
    processes: list[Process] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    by_version: dict[str, int] = field(default_factory=dict)

    def check(self) -> None:
        """Check that server and agent are still running."""
        for process in self.processes:
            process.check()


def tell(options: Options) -> None:
    """Run the demo; it leaves no process and no file behind, however it ends.

    Raises:
        EdgecError: A step failed; the message says which.
    """

    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="edgec-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        demo = Demo(options, folder, stack)

        def stop(_number: int, _frame: FrameType | None) -> None:
            raise KeyboardInterrupt

        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, stop))
        _steps(demo)


def _steps(demo: Demo) -> None:
    say = err.print if demo.options.as_json else out.print
    models = _models(demo)
    video = _video(demo)
    _title(demo, "Compile a detector for this machine and verify it against ONNX Runtime")
    first = _compile(demo, models[0], "1")

    _title(demo, "Start a fleet server: registry, dashboard, MQTT broker")
    info = _start_server(demo)
    broker = f"   MQTT {info['mqtt_host']}:{info['mqtt_port']}"
    say(styled("  dashboard  ", (info["url"], "bold"), broker), soft_wrap=True)
    secret = Path(info["admin_token_file"]).read_text().strip()
    if demo.options.serve:
        say(styled("  sign in with the token ", (secret, "bold")), soft_wrap=True)
    client = demo.stack.enter_context(FleetClient(info["url"], secret))
    name = _push(demo, client, first)

    _title(demo, "Enroll a device and start its agent, with a video as its camera")
    _start_agent(demo, client, info["url"], name, video)
    _deploy(demo, client, name, "1")
    _watch(demo, client, demo.options.watch_s)

    _title(demo, "Publish version 2 and roll it out while frames are processed")
    second = _compile(demo, models[1], "2")
    _push(demo, client, second)
    before = _stream(client)
    _deploy(demo, client, name, "2")
    after = _stream(client)
    frames = after.get("processed", 0) - before.get("processed", 0)
    say(f"  {frames} frames were processed in the meantime; the agent never stopped")
    _watch(demo, client, demo.options.watch_s)
    _summary(demo, client, name)
    if demo.options.serve:
        _stay(demo, info["url"])


def _title(demo: Demo, text: str) -> None:
    demo.check()
    console = err if demo.options.as_json else out
    passed = f"{time.monotonic() - demo.began:.0f} s"
    console.print(styled("\n", (f"▸ {text}", "bold cyan"), "  ", (passed, "dim")))


def _models(demo: Demo) -> tuple[Path, Path]:
    """Return the ONNX files of the two versions, each with its card."""
    if demo.options.model is not None:
        path = demo.options.model
        if not path.is_file():
            raise UsageError(f"there is no model file {path}")
        if not path.with_name("model.toml").is_file():
            raise UsageError(f"{path.with_name('model.toml')} is missing: the demo needs the model's card")
        return path, path
    from edgec.models import build

    return build(ZOO[0], demo.folder / "v1"), build(ZOO[1], demo.folder / "v2")


def _video(demo: Demo) -> str:
    """Return the agent's source: the user's camera, or a video generated for the demo."""
    camera = demo.options.camera
    if camera is not None:
        if camera.isdecimal():
            return f"camera:{camera}"
        if "://" in camera or Path(camera).exists():
            return camera if "://" in camera or camera.startswith("/dev/") else str(Path(camera).resolve())
        raise UsageError(
            f"there is no camera, stream or video {camera!r}: give a number, an address or a file"
        )
    from edgec.models.demo_video import write_clip

    path = demo.folder / "street.avi"
    write_clip(path, 20.0)
    return str(path)


def _compile(demo: Demo, model: Path, version: str) -> CompileResult:
    from edgec.compiler.options import CompileOptions
    from edgec.compiler.pipeline import compile_model
    from edgec.runtime import load_card
    from edgec.targets import detect

    with TerminalProgress(quiet=demo.options.as_json) as progress:
        result = compile_model(
            model,
            detect(),
            CompileOptions(),
            card=load_card(model.with_name("model.toml")),
            output=demo.folder / f"detector-{version}.edge",
            name="detector",
            version=version,
            progress=progress,
        )
    if not demo.options.as_json:
        show_compiled(result)
    return result


def _start_server(demo: Demo) -> dict[str, Any]:
    arguments = ["fleet", "serve", "--host", "127.0.0.1", "--port", "0", "--mqtt-port", "0", "--json"]
    server = start(
        demo.stack, "fleet server", [*arguments, "--data", str(demo.folder / "fleet")], demo.folder
    )
    demo.processes.append(server)
    return server.first_json_line(START_S)


def _push(demo: Demo, client: FleetClient, compiled: CompileResult) -> str:
    pushed = push_artifact(client, compiled.artifact, None, None, lambda _title, _done, _total: None)
    console = err if demo.options.as_json else out
    console.print(
        f"  pushed {pushed.model}:{pushed.version} for {pushed.target}, {pushed.size / 1e6:.1f} MB, "
        f"of which {pushed.sent_bytes / 1e6:.1f} MB were new to the registry",
        soft_wrap=True,
    )
    return pushed.model


def _start_agent(demo: Demo, client: FleetClient, url: str, model: str, source: str) -> None:
    token = client.post("/enroll-tokens", {"uses": 1, "valid_s": 300.0, "labels": {"line": "demo"}})["token"]
    state = demo.folder / "agent"
    edgec(
        "agent", "enroll", "--server", url, "--token", token, "--device", DEVICE, "--state", str(state)
    )  # fmt: skip
    config = demo.folder / "agent.toml"
    config.write_text(
        f'[agent]\nstate = "{state}"\ndevice = "{DEVICE}"\nhealth_interval_s = 1.0\n\n'
        f"[models.{model}]\n\n"
        f'[streams.{STREAM}]\nsource = "{source}"\nmodel = "{model}"\n\n'
        "[updates]\nprobation_s = 3.0\n",
        encoding="utf-8",
    )
    agent = start(demo.stack, "agent", ["agent", "run", "--config", str(config)], demo.folder)
    demo.processes.append(agent)
    end = time.monotonic() + START_S
    while client.get(f"/devices/{DEVICE}")["state"] != "online":
        demo.check()
        if time.monotonic() > end:
            raise agent.failed(f"did not come online within {START_S:g} s")
        time.sleep(LOOK_S)


def _deploy(demo: Demo, client: FleetClient, model: str, version: str) -> None:
    console = err if demo.options.as_json else out
    scope = {"kind": "device", "name": DEVICE}
    begun = client.post("/rollouts", {"model": model, "version": version, "scope": scope})
    rollout: dict[str, Any] = begun
    step = ""
    for rollout in follow(client, begun["id"], ROLLOUT_S):  # noqa: B007 - the last one is the end
        demo.check()
        _news(demo, client)
        job = client.get(f"/devices/{DEVICE}/jobs", limit=1)["items"][:1]
        now = str(job[0].get("details", {}).get("step", "")) if job else ""
        if now and now != step:
            step = now
            counters = _stream(client)
            console.print(
                styled(
                    "  ",
                    (time.strftime("%H:%M:%S"), "dim"),
                    f" {model}:{version}  {step:<12}",
                    (f"{counters.get('processed', 0)} frames processed, ", "dim"),
                    (f"{counters.get('dropped', 0)} dropped", "dim"),
                ),
                soft_wrap=True,
            )
    if rollout["state"] != "SUCCEEDED":
        raise DemoFailed(f"the rollout of {model}:{version} ended {rollout['state']}: {rollout['reason']}")
    console.print(styled("  ", ("✓", "green"), f" {DEVICE} runs {model}:{version}"))


def _stream(client: FleetClient) -> dict[str, Any]:
    """Return the stream's counters from the device's last report."""
    health = client.get(f"/devices/{DEVICE}").get("health") or {}
    streams: list[dict[str, Any]] = [s for s in health.get("streams", []) if s["name"] == STREAM]
    return streams[0] if streams else {}


def _watch(demo: Demo, client: FleetClient, seconds: float) -> None:
    """Print detections as they reach the server, for `seconds`."""
    console = err if demo.options.as_json else out
    end, shown = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        demo.check()
        for item in _news(demo, client):
            if item["phase"] != "new" or shown >= LINES:
                continue
            shown += 1
            box = ", ".join(f"{value:.0f}" for value in item["data"].get("box") or ())
            clock = time.strftime("%H:%M:%S", time.localtime(item["at"]))
            track = item["track_id"].rpartition("-")[2]
            console.print(
                styled(
                    "  ",
                    (clock, "dim"),
                    f" {item['stream']}  ",
                    (f"{item['label']:<10}", "bold"),
                    f" {item['score']:.2f}  track {track:<5}",
                    (f"[{box}]", "dim"),
                    f"  version {item['version']}",
                ),
                soft_wrap=True,
            )
        time.sleep(LOOK_S)


def _news(demo: Demo, client: FleetClient) -> list[dict[str, Any]]:
    """Count and return the detections that reached the server since the last call, oldest first."""
    items = client.get(f"/devices/{DEVICE}/detections", limit=200)["items"]
    news = [item for item in reversed(items) if item["id"] not in demo.seen]
    for item in news:
        demo.seen.add(item["id"])
        demo.by_version[item["version"]] = demo.by_version.get(item["version"], 0) + 1
    return news


def _summary(demo: Demo, client: FleetClient, model: str) -> None:
    device, stream = client.get(f"/devices/{DEVICE}"), _stream(client)
    numbers = {
        "seconds": round(time.monotonic() - demo.began, 1),
        "device": DEVICE,
        "model": model,
        "version": device["version"],
        "frames": stream.get("processed", 0),
        "captured": stream.get("captured", 0),
        "dropped": stream.get("dropped", 0),
        "fps": round(stream.get("fps", 0.0), 1),
        "detections": sum(demo.by_version.values()),
        "detections_by_version": dict(sorted(demo.by_version.items())),
    }
    if not numbers["frames"] or not numbers["detections"]:
        raise DemoFailed(
            f"the device reported {numbers['frames']} frames, {numbers['detections']} detections"
        )
    if demo.options.as_json:
        emit_json(numbers)
        return
    _title(demo, "Summary")
    counts = ", ".join(
        f"{number} by version {version}" for version, number in numbers["detections_by_version"].items()
    )
    out.print(
        f"  frames      {numbers['frames']} processed at {numbers['fps']} per second, "
        f"{numbers['dropped']} dropped"
    )
    out.print(f"  detections  {counts}")
    out.print(f"  versions    1 → {numbers['version']}, swapped between two frames")


def _stay(demo: Demo, url: str) -> None:
    err.print(styled("\nthe dashboard remains at ", (url, "bold"), " until Ctrl-C"), soft_wrap=True)
    try:
        while True:
            demo.check()
            time.sleep(1.0)
    except KeyboardInterrupt:
        err.print("stopping")


__all__ = ["EdgecError", "Options", "tell"]
