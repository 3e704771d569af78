"""The header of one model's C library."""

from __future__ import annotations

import re

from edgec.compiler.c_library.model import CModel, array_bytes
from edgec.compiler.c_library.names import in_comment, macro_parts
from edgec.compiler.c_library.toolchain import sources

# Parts of the header that depend on whether sizes, or the path that a run takes, differ between runs.
_FIXED = "After @name@_init nothing is allocated and no file is opened."
_VARYING = (
    "The model has branches, loops or sizes known only at run time:\n"
    " * a run allocates what it needs beside the memory stated here and keeps it for the next; @name@_free frees it.\n"
    " * After @name@_init no file is opened."
)
_MOST = """
const int64_t *@name@_input_most(int number); /* largest sizes of an input; @name@_input has the smallest */"""
_SIZED = """
/* An array with its sizes. */
typedef struct {
  const void *data;     /* C order, without padding */
  const int64_t *shape; /* of an input, NULL for those that @name@_input tells */
} @name@_array;

/* For inputs and outputs whose sizes are known only at run time, which @name@_run refuses: outputs[k] tells where the
 * output is and its sizes, until the instance's next run or its end. In @name@_output they are -1, and bytes 0. */
int @name@_run_sized(@name@ *instance, const @name@_array inputs[], @name@_array outputs[]);
"""


def header(model: CModel) -> str:
    """The text of `NAME.h`."""
    config, name = model.config, model.name
    fixed, each = model.memory()
    shown = config.visible()
    lines, macros = [], []
    for kind, specs in (("INPUT", shown.inputs), ("OUTPUT", shown.outputs)):
        for number, (spec, part) in enumerate(zip(specs, macro_parts([s.name for s in specs]), strict=True)):
            sizes = ", ".join("?" if size == "-1" else size for size in spec.sizes())
            lines.append(f" *   {kind.lower()} {number}: {in_comment(spec.name)} {spec.dtype}[{sizes}]")
            macros.append(f"#define {name.upper()}_{kind}_{part} {number}")
            if -1 not in spec.shape:
                most = [high for _, high in spec.bounds] or spec.shape
                macros.append(f"#define {name.upper()}_{kind}_{part}_BYTES {array_bytes(most, spec.dtype)}u")
    lines += [f" *   state: {in_comment(str(state))}" for state in config.states]
    features = ", ".join(config.required_features) or "no particular features"
    values = {
        "name": name,
        "NAME": name.upper(),
        "title": in_comment(f"{config.name} {config.version} as a C library, for {config.target}."),
        "about": in_comment(f"It needs {config.arch} with {features}."),
        "fixed": fixed,
        "each": each,
        "arena": model.arena,
        "weights": model.weights_bytes,
        "stack": model.stack,
        "snapshot": model.snapshot_bytes(),
        "layers": len(model.program.calls),
        "inputs": len(shown.inputs),
        "outputs": len(shown.outputs),
        "ports": "\n".join(lines),
        "port_macros": "\n".join(macros),
        "zeros": "" if model.linked else ", beside weights_path",
        "weights_path": (
            "unused: the weights are in the library"
            if model.linked
            else f"the file {name}.weights, which is mapped once"
        ),
        "allocation": (_FIXED if model.machine is None else _VARYING).replace("@name@", name),
        "most": "" if model.machine is None else _MOST.replace("@name@", name),
        "sized": "" if model.machine is None else _SIZED.replace("@name@", name),
    }
    text = (sources() / "model.h.in").read_text()
    return re.sub(r"@([A-Za-z_]+)@", lambda found: str(values[found[1]]), text)
