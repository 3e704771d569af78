#!/usr/bin/env bash
# Bring the Debian packages that some tests want: a browser, an emulator for 64-bit ARM, a second MQTT
# broker, a second database.
# Needs root (or sudo without a password); without either it says what to install and the tests are skipped.
set -euo pipefail

declare -A wanted=(
    [chromium]=chromium
    [qemu-aarch64-static]=qemu-user-static
    [mosquitto]=mosquitto
    [pg_ctlcluster]=postgresql
)
missing=()
for command in "${!wanted[@]}"; do
    PATH="$PATH:/usr/sbin" command -v "$command" >/dev/null || missing+=("${wanted[$command]}")
done
[ ${#missing[@]} -eq 0 ] && exit 0

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
