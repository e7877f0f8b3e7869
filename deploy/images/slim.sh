#!/bin/sh
# Removes from a virtual environment what no service runs: tests and their data, headers and static libraries for compilers, and
# tools of torch and numpy for builds.
#   slim.sh FOLDER
set -eu
cd "$1"/lib/python3*/site-packages
find . -depth -type d \( -name tests -o -path ./torch/test \) -exec rm -r {} +
rm -rf numpy/f2py numpy/_core/include numpy/_core/lib numpy/random/lib torch/include
find torch/bin -type f ! -name torch_shm_manager -delete 2>/dev/null || true
find . -type f \( -name '*.pyi' -o -name '*.pxd' -o -name '*.a' \) -delete
