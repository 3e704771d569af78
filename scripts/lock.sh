#!/usr/bin/env bash
# Write constraints.txt: the exact versions that the environment of the Python given has been tested with.
# Plain "name==version" lines, without addresses of indexes or the name of a build (torch's "+cpu").
set -euo pipefail
python="$1"
cd "$(dirname "$0")/.."
{
    echo "# The versions that edgec is tested with. Written by 'make lock'."
    "$python" -m pip --disable-pip-version-check list --format freeze --exclude-editable \
        --exclude pip --exclude setuptools --exclude wheel | sed 's/+[^ ]*$//' | grep -E '^[A-Za-z0-9._-]+==[^ @]+$'
} >constraints.txt.new
mv constraints.txt.new constraints.txt
