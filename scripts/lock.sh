#!/usr/bin/env bash
# Write constraints.txt: the exact versions in the environment of the given Python, which edgec is tested with.
# Plain "name==version" lines, without index URLs or build tags (torch's "+cpu").
set -euo pipefail
python="$1"
cd "$(dirname "$0")/.."
{
    echo "# The versions that edgec is tested with. Written by 'make lock'."
    "$python" -m pip --disable-pip-version-check list --format freeze --exclude-editable \
        --exclude pip --exclude setuptools --exclude wheel | sed 's/+[^ ]*$//' | grep -E '^[A-Za-z0-9._-]+==[^ @]+$'
} >constraints.txt.new
mv constraints.txt.new constraints.txt
