"""C libraries: what a C program computes with one is what Python computes, and the header states what that takes."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

import edgec.runtime as rt
from edgec.compiler.errors import UnsupportedModel
from edgec.compiler.frontends.relax import converters
from edgec.compiler.frontends.relax.converters import CannotConvert
from edgec.targets import detect, load_target
from tests.compiler.c_library.harness import (
    Built,
    build,
    compile_program,
    driver,
    python_outputs,
    run_driver,
    same,
)
from tests.compiler.c_library.models import classifier, stream
from tests.compiler.small_models import model_of

RNG = np.random.default_rng(0)
PICTURES = [{"image": RNG.standard_normal((1, 3, 32, 32)).astype(np.float32)} for _ in range(3)]
FRAMES = [{"frame": RNG.standard_normal((1, 40)).astype(np.float32)} for _ in range(6)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(classifier(), detect(), tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(stream(), detect(), tmp_path_factory.mktemp("streams"), name="1-stream", weights="file")


def test_it_computes_what_python_computes(pictures: Built) -> None:
    expected, program = python_outputs(pictures, PICTURES), driver(pictures)
    for threads, skew in ((1, 0), (1, 4), (2, 0), (3, 20)):
        found, _ = run_driver(pictures, program, PICTURES, threads=threads, skew=skew)
        assert same(found, expected), (threads, skew)


def test_what_the_header_states_is_enough(pictures: Built) -> None:
    """Memory that the caller gives, painted stack, and no allocation once it runs."""
    program = driver(pictures, "-DOWN_MEMORY", "-DCOUNT")
    for threads in (1, 2):
        found, told = run_driver(pictures, program, PICTURES, threads=threads)
        assert same(found, python_outputs(pictures, PICTURES))
        assert told["allocations"] == 0
        assert 0 < told["stack"] <= told["stated"]


def test_less_memory_than_stated_is_refused(pictures: Built, tmp_path: Path) -> None:
    program = run_c(pictures, tmp_path, """
        static _Alignas(64) char memory[NET_MEMORY_BYTES(1)];
        net *model;
        net_options small = {.memory = memory, .memory_bytes = 4096};
        net_options skewed = {.memory = memory + 8, .memory_bytes = sizeof memory};
        printf("%d %s\\n", net_init(&model, &small), net_last_error());
        printf("%d %s\\n", net_init(&model, &skewed), net_last_error());
        printf("%d %s\\n", net_init(&model, &(net_options){.threads = 1000}), net_last_error());
        printf("%d %s\\n", net_init(NULL, NULL), net_last_error());
        if (net_init(&model, NULL)) return 1;
        static float image[3072], same[3072], classes[10];
        printf("%d %s\\n", net_run(model, (const void *[]){NULL}, (void *[]){classes, same}), net_last_error());
        printf("%d %s\\n", net_run(model, (const void *[]){image}, (void *[]){classes, image}), net_last_error());
        printf("%d %s\\n", net_run(NULL, (const void *[]){image}, (void *[]){classes, same}), net_last_error());
        printf("%d\\n", net_run(model, (const void *[]){image}, (void *[]){classes, same}));
        printf("%d %d %d %d\\n", net_input(1) == NULL, net_output(-1) == NULL, net_inputs(), net_outputs());
        printf("%s %d %zu\\n", net_input(0)->name, (int)net_input(0)->shape[2], net_output(0)->bytes);
        net_layer layers[NET_LAYERS];
        printf("%d\\n", net_profile(model, (const void *[]){image}, (void *[]){classes, same}, 2, layers, NET_LAYERS));
        printf("%d\\n", layers[0].seconds > 0);
        net_free(model);
        net_free(NULL);
    """)  # fmt: skip
    lines = program.splitlines()
    assert lines[0].startswith("1 net needs ")
    assert lines[1].startswith("1 net needs ")
    assert lines[2] == "1 net runs on at most 64 threads, not 1000"
    assert lines[3] == "1 there is no place for the instance"
    assert lines[4] == "1 input 'image' of net is NULL"
    assert lines[5] == "1 output 'same' of net overlaps input 'image'"
    assert lines[6].startswith("1 there is no instance of net")
    assert lines[7:] == ["0", "1 1 1 2", "image 32 40", "0", "1"]


def test_a_stream_keeps_its_state(streams: Built) -> None:
    weights = str(streams.library.folder / "m_1_stream.weights")
    found, _ = run_driver(streams, driver(streams), FRAMES, after=[weights])
    assert same(found, python_outputs(streams, FRAMES))


def test_snapshots_go_from_c_to_python_and_back(streams: Built, tmp_path: Path) -> None:
    frames = np.concatenate([one["frame"] for one in FRAMES])
    (tmp_path / "frames.bin").write_bytes(frames.tobytes())
    with rt.load(streams.result.artifact, threads=1) as model:
        session = model.session()
        expected = [session.run(one)["score"] for one in FRAMES[:3]][-1]
        (tmp_path / "python.snap").write_bytes(session.snapshot())
        later = session.run(FRAMES[3])["score"]
        printed = run_c(streams, tmp_path, f"""
            m_1_stream *model;
            m_1_stream_options options = {{.weights_path = "{streams.library.folder}/m_1_stream.weights"}};
            if (m_1_stream_init(&model, &options)) return puts(m_1_stream_last_error()), 1;
            float frames[6][40], score[3];
            static unsigned char snapshot[M_1_STREAM_SNAPSHOT_BYTES];
            FILE *file = fopen("{tmp_path}/frames.bin", "rb");
            if (fread(frames, sizeof frames, 1, file) != 1) return 2;
            for (int i = 0; i < 3; i++) m_1_stream_run(model, (const void *[]){{frames[i]}}, (void *[]){{score}});
            fwrite(score, sizeof score, 1, fopen("{tmp_path}/third.bin", "wb"));
            m_1_stream_snapshot(model, snapshot, sizeof snapshot);
            fwrite(snapshot, sizeof snapshot, 1, fopen("{tmp_path}/c.snap", "wb"));
            m_1_stream_reset(model);
            file = fopen("{tmp_path}/python.snap", "rb");
            if (fread(snapshot, 1, sizeof snapshot, file) != sizeof snapshot) return 3;
            printf("%d\\n", m_1_stream_restore(model, snapshot, sizeof snapshot));
            m_1_stream_run(model, (const void *[]){{frames[3]}}, (void *[]){{score}});
            fwrite(score, sizeof score, 1, fopen("{tmp_path}/fourth.bin", "wb"));
            snapshot[60] ^= 1;
            printf("%d %s\\n", m_1_stream_restore(model, snapshot, sizeof snapshot), m_1_stream_last_error());
            printf("%d %s\\n", m_1_stream_restore(model, snapshot, 7), m_1_stream_last_error());
            fflush(NULL);
        """)  # fmt: skip
        assert printed.splitlines()[0] == "0"
        assert printed.splitlines()[1] == "6 the snapshot is cut short or damaged: its digest differs"
        assert printed.splitlines()[2] == "6 these bytes are no snapshot of a session"
        assert (tmp_path / "third.bin").read_bytes() == expected.tobytes()
        assert (tmp_path / "fourth.bin").read_bytes() == later.tobytes()
        assert (tmp_path / "c.snap").read_bytes() == (tmp_path / "python.snap").read_bytes()
        other = model.session()
        other.restore((tmp_path / "c.snap").read_bytes())
        assert other.run(FRAMES[3])["score"].tobytes() == later.tobytes()


def test_weights_of_another_model_are_refused(streams: Built, tmp_path: Path) -> None:
    content = bytearray((streams.library.folder / "m_1_stream.weights").read_bytes())
    content[-100] ^= 1
    (tmp_path / "altered").write_bytes(content)
    (tmp_path / "short").write_bytes(content[:-1])
    (tmp_path / "empty").write_bytes(b"")
    names = ("altered", "short", "empty", "missing")
    body = "".join(
        f'o.weights_path = "{tmp_path}/{name}"; '
        'printf("%d %s\\n", m_1_stream_init(&m, &o), m_1_stream_last_error());'
        for name in names
    )
    printed = run_c(streams, tmp_path, f"m_1_stream *m; m_1_stream_options o = {{0}}; {body} "
                    'printf("%d %s\\n", m_1_stream_init(&m, NULL), m_1_stream_last_error());')  # fmt: skip
    lines = printed.splitlines()
    assert lines[0].startswith("3 ")
    assert "its digest differs" in lines[0]
    assert f"has {len(content) - 1} bytes" in lines[1]
    assert all(line.startswith("3 ") for line in lines[:4])
    assert lines[4] == "1 1-stream needs the file of its weights: set options.weights_path"


def test_two_models_and_a_callers_pool_in_one_program(
    pictures: Built, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    other = build(classifier(), detect(), tmp_path_factory.mktemp("other"), name="other")
    (tmp_path / "image.bin").write_bytes(PICTURES[0]["image"].tobytes())
    extra = [f"-I{other.library.folder}", str(other.library.folder / "libother.a")]
    printed = run_c(pictures, tmp_path, f"""
        net *one; other *two;
        int called = 0;
        if (net_init(&one, &(net_options){{.threads = 4, .parallel = pool, .pool = &called}})) return 1;
        if (other_init(&two, NULL)) return 2;
        static float image[3072], same[3072], a[10], b[10];
        if (fread(image, sizeof image, 1, fopen("{tmp_path}/image.bin", "rb")) != 1) return 3;
        net_run(one, (const void *[]){{image}}, (void *[]){{a, same}});
        other_run(two, (const void *[]){{image}}, (void *[]){{b, same}});
        printf("%d %d\\n", called > 0, memcmp(a, b, sizeof a));
        net_free(one); other_free(two);
    """, *extra, head='#include "other.h"\n' + POOL)  # fmt: skip
    assert printed == "1 0\n"


POOL = """
static int pool(void *called, int tasks, void (*run)(void *, int), void *work) {
  for (int k = tasks; k-- > 0;) run(work, k);
  ++*(int *)called;
  return 0;
}
"""


def test_a_processor_without_a_feature_is_refused(tmp_path: Path) -> None:
    target = dataclasses.replace(detect(), features=detect().features | {"avx9000"})
    built = build(classifier(), target, tmp_path)
    printed = run_c(built, tmp_path, 'net *m; printf("%d %s\\n", net_init(&m, NULL), net_last_error());')
    assert printed.startswith("4 net 1 for ")
    assert "needs a processor with avx9000; this one lacks it" in printed


@pytest.mark.skipif("avx512_bf16" not in detect().features, reason="this processor multiplies no bfloat16")
def test_products_in_bfloat16(tmp_path: Path) -> None:
    built = build(classifier(), detect(), tmp_path, precision="bf16")
    assert any("bf16" in kernel.schedule for kernel in built.result.lowered.kernels.values())
    found, told = run_driver(built, driver(built), PICTURES, threads=2)
    assert same(found, python_outputs(built, PICTURES))
    assert 0 < told["stack"] <= told["stated"]


def test_a_fallback_is_refused_with_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_node: object) -> None:
        raise CannotConvert("determinants are not compiled here")

    converters.load_all()
    monkeypatch.setitem(converters.CONVERTERS, ("", "Det"), refuse)
    node = helper.make_node("Det", ["x"], ["y"], name="det")
    with pytest.raises(UnsupportedModel, match=r"Det \(ai.onnx\) at 'det'"):
        build(model_of([node], {"x": [3, 4, 4]}, ["y"]), detect(), tmp_path)


def test_equal_compiles_are_equal_bytes(pictures: Built, tmp_path: Path) -> None:
    again = build(classifier(), detect(), tmp_path / "elsewhere")
    for name in pictures.library.files:
        assert (again.library.folder / name).read_bytes() == (pictures.library.folder / name).read_bytes()


@pytest.mark.long  # the first time, ziglang builds musl
@pytest.mark.emulator
@pytest.mark.skipif(
    shutil.which("qemu-aarch64-static") is None, reason="qemu-aarch64-static is not installed"
)
def test_the_same_on_arm_with_musl(pictures: Built, tmp_path: Path) -> None:
    built = build(classifier(), load_target("rpi4"), tmp_path, libc="musl")
    program = driver(built, "-static")
    qemu = ["qemu-aarch64-static", "-cpu", "cortex-a72"]
    found, told = run_driver(built, program, PICTURES, before=qemu)
    threaded, _ = run_driver(built, program, PICTURES, before=qemu, threads=2, skew=4)
    assert same(found, threaded)
    assert 0 < told["stack"] <= told["stated"]
    for one, expected in zip(found, python_outputs(pictures, PICTURES), strict=True):
        np.testing.assert_allclose(one["classes"], expected["classes"], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(one["same"], expected["same"])


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_valgrind_finds_nothing(tmp_path: Path) -> None:
    built = build(classifier(), load_target("x86-64-v3"), tmp_path)
    program = driver(built)
    valgrind = ["valgrind", "-q", "--leak-check=full", "--error-exitcode=9", "--fair-sched=yes"]
    for threads in (1, 2):
        run_driver(built, program, PICTURES[:1], threads=threads, before=valgrind)


def run_c(built: Built, folder: Path, body: str, *flags: Any, head: str = "") -> str:
    """Compile the body of a `main` with a library, run it, and return what it prints."""
    source = folder / "program.c"
    includes = f'#include <stdio.h>\n#include <string.h>\n#include "{built.library.name}.h"\n{head}\n'
    source.write_text(f"{includes}int main(void) {{\n{body}\nreturn 0;\n}}\n")
    program = compile_program(built, source, *flags, output=folder / "program")
    return subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
