#!/bin/sh
# Runs the C++ tests with AddressSanitizer and UBSan, the hostile bundles and images among them, and the tests of the
# step loop with ThreadSanitizer.
#
#   sanitized.sh PYTHON     needs what prepare.sh gets
set -eu
python=$(realpath -s "$1")
cd "$(dirname "$0")"
for preset in asan tsan; do
    cmake --preset $preset -DONNXRUNTIME_ROOT=build/onnxruntime/usr --log-level=WARNING
    cmake --build --preset $preset
    build/$preset/tests/vcut_tests
done
build/asan/tests/vcut_c_test
root=$(cd ../.. && pwd)
cd "$root"
# Python itself keeps memory until it ends, so leaks are looked for in the C++ tests alone.
# Its exceptions are looked up at the start, so the C++ library comes along.
LD_PRELOAD="$(c++ -print-file-name=libasan.so) $(c++ -print-file-name=libstdc++.so.6)" \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
    VCUT_CPP_LIBRARY="$root/runtime/cpp/build/asan/libvcut.so" \
    "$python" -m pytest tests/cpp/test_bundle.py tests/cpp/test_images.py
