#!/usr/bin/env bash
# Install the Debian packages that some tests need: a browser, an emulator for 64-bit ARM, a second MQTT
# broker, a second database, a second registry, a security token in software, a memory checker, a C++ compiler.
# Requires root (or sudo without a password); otherwise it prints what to install, and the tests are skipped.
# With a Python that has edgec, it also builds the folder of 64-bit ARM libraries that the emulator runs in.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${1:-}"

emulator_root() {
    [ -n "$python" ] && [ "$(uname -m)" != aarch64 ] || return 0
    "$python" -m edgec.cli.main targets emulator install ||
        echo "the tests under the emulator will be skipped: it cannot be prepared" >&2
}

declare -A wanted=(
    [chromium]=chromium
    [qemu-aarch64-static]=qemu-user-static
    [mosquitto]=mosquitto
    [pg_ctlcluster]=postgresql
    [docker-registry]=docker-registry
    [softhsm2-util]=softhsm2
    [valgrind]=valgrind
    [g++]=g++
)
missing=()
for command in "${!wanted[@]}"; do
    PATH="$PATH:/usr/sbin" command -v "$command" >/dev/null || missing+=("${wanted[$command]}")
done
[ ${#missing[@]} -eq 0 ] && emulator_root && exit 0

if ! command -v apt-get >/dev/null; then
    echo "some tests will be skipped: not installed here: ${missing[*]}" >&2
    exit 0
fi
sudo=()
if [ "$(id -u)" -ne 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "some tests will be skipped; for all of them: sudo apt-get install ${missing[*]}" >&2
        exit 0
    fi
    sudo=(sudo -n)
fi
echo "installing for the tests: ${missing[*]} …"
"${sudo[@]}" apt-get -qq update
DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null
emulator_root
