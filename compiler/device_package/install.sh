#!/bin/sh
# Install edgec's runtime and agent for @TARGET@ on this machine, without a network and without pip.
#
#   ./install.sh [--prefix /opt/edgec] [--python python3] [--service]
#
# --prefix   where to install; default /opt/edgec
# --python   the interpreter, of version @PYTHON@
# --service  also install the systemd unit, the user `edgec` and /etc/edgec/agent.toml (needs root)
set -eu

fail() {
    echo "error: $1" >&2
    exit 1
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
prefix=/opt/edgec
python=python3
service=no
while [ $# -gt 0 ]; do
    case "$1" in
        --prefix) [ $# -gt 1 ] || fail "--prefix needs a folder"; prefix=$2; shift 2 ;;
        --python) [ $# -gt 1 ] || fail "--python needs a program"; python=$2; shift 2 ;;
        --service) service=yes; shift ;;
        -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) fail "unknown option $1; see --help" ;;
    esac
done

command -v "$python" >/dev/null || fail "$python was not found: install Python @PYTHON@, or name it with --python"

# Everything else is done by the device's own Python: it knows its version, and unpacks wheels, which are zip files.
"$python" - "$here" "$prefix" <<'PROGRAM'
import hashlib, os, platform, shutil, struct, sys, zipfile

here, prefix = sys.argv[1], os.path.abspath(sys.argv[2])


def fail(text):
    sys.exit(f"error: {text}")


arch = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine(), platform.machine())
if arch != "@ARCH@":
    fail(f"this bundle is for @ARCH@ (@TARGET@); this machine is {arch}")
if struct.calcsize("P") != 8 or sys.byteorder != "little":
    fail(f"a 64-bit little-endian Python is needed; this one has {struct.calcsize('P') * 8} bits, {sys.byteorder}-endian")
if "%d.%d" % sys.version_info[:2] != "@PYTHON@":
    fail("this bundle is for Python @PYTHON@; this is %d.%d: make it with --python %d.%d" % (sys.version_info[:2] * 2))
library, version = platform.libc_ver()
if library != "glibc":
    fail("this bundle needs glibc @GLIBC@ or later; this system has another C library")
if [int(part) for part in version.split(".")[:2]] < [int(part) for part in "@GLIBC@".split(".")]:
    fail(f"this bundle needs glibc @GLIBC@ or later; this system has {version}")

with open(os.path.join(here, "SHA256SUMS"), encoding="utf-8") as sums:
    for line in sums:
        digest, name = line.rstrip("\n").split("  ", 1)
        try:
            with open(os.path.join(here, name), "rb") as file:
                content = file.read()
        except OSError as error:
            fail(f"{name}: {error.strerror}")
        if hashlib.sha256(content).hexdigest() != digest:
            fail(f"{name} was altered: its digest differs from that in SHA256SUMS")

site, new = os.path.join(prefix, "lib"), os.path.join(prefix, "lib.new")
try:
    os.makedirs(os.path.join(prefix, "bin"), exist_ok=True)
    shutil.rmtree(new, ignore_errors=True)
    for name in sorted(os.listdir(os.path.join(here, "wheels"))):
        with zipfile.ZipFile(os.path.join(here, "wheels", name)) as wheel:
            wheel.extractall(new)
    old = os.path.join(prefix, "lib.old")
    shutil.rmtree(old, ignore_errors=True)
    if os.path.isdir(site):
        os.rename(site, old)
    os.rename(new, site)
    shutil.rmtree(old, ignore_errors=True)
    start = os.path.join(prefix, "bin", "edgec")
    with open(start + ".new", "w", encoding="utf-8") as file:
        file.write(f"#!{sys.executable}\nimport sys\n\nsys.path.insert(0, {site!r})\n")
        file.write("import os\n\nos.environ['PYTHONPATH'] = os.pathsep.join(filter(None, ")
        file.write(f"[{site!r}, os.environ.get('PYTHONPATH')]))  # for the processes that it starts\n")
        file.write("from edgec.cli.main import main\n\nmain()\n")
    os.chmod(start + ".new", 0o755)
    os.rename(start + ".new", start)
except OSError as error:
    fail(f"{error.filename}: {error.strerror}")
print(f"edgec is installed: {start}")
PROGRAM

if [ "$service" = yes ]; then
    [ "$(id -u)" -eq 0 ] || fail "--service needs root"
    id edgec >/dev/null 2>&1 || useradd --system --home-dir /var/lib/edgec --create-home --groups video,audio edgec
    mkdir -p /etc/edgec
    [ -e /etc/edgec/agent.toml ] || cp "$here/agent.toml" /etc/edgec/agent.toml
    sed "s|^ExecStart=.* edgec agent|ExecStart=$prefix/bin/edgec agent|" "$here/edgec-agent.service" \
        >/etc/systemd/system/edgec-agent.service
    systemctl daemon-reload
    echo "edit /etc/edgec/agent.toml, enrol with '$prefix/bin/edgec agent enroll', then: systemctl enable --now edgec-agent"
fi
