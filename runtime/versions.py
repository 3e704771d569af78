"""The versions of TVM that edgec supports. `pyproject.toml` pins the same, which a test checks."""

from __future__ import annotations

TVM = "0.27.0.post1"
# One version and no other. Its object layouts are written down in `edgec.runtime.execution.ffi_abi`, and it installs an
# object allocator of its own when its package is imported, which a coming release will use to tie objects to Python's:
# objects created before that import would then lack what it expects of them. pip on its own picks 0.1.15, with which
# serialisation in this TVM ends in a segmentation fault.
TVM_FFI = "0.1.14.post1"
TVM_FFI_LIBRARY = (0, 1, 15)  # the version that the library in it reports
# Any TVM runtime of this series runs compiled code.
TVM_SERIES = "0.27."
# Names the calling convention of compiled code: TVM's virtual machine and the object ABI of tvm-ffi.
RUNTIME_ABI = "tvm-0.27+ffi-0.1"
# Of the thread pool's interface (`edgec.runtime.execution.pool`).
POOL = 1
