#!/bin/sh
# Build the native tests under AddressSanitizer with UBSan, then under ThreadSanitizer, and run them:
#   tests/cpp/check.sh BIN
# BIN holds cmake and ninja. The last line says how many tests passed and failed, over both builds.
set -eu

bin=$(cd "$1" && pwd)
source=$(cd "$(dirname "$0")" && pwd)
build=$(dirname "$(dirname "$source")")/build/native
passed=0
failed=0

# ThreadSanitizer of older compilers fails with the address randomisation of newer kernels.
fixed=
if setarch "$(uname -m)" -R true 2>/dev/null; then fixed="setarch $(uname -m) -R"; fi

run() {
    echo "$sanitizer: $*"
    report=$build/$sanitizer/report.txt
    if $fixed "$build/$sanitizer/$@" >"$report" 2>&1; then code=0; else code=$?; fi
    cat "$report"
    counts=$(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$report" | tail -n 1)
    if [ "$code" -ne 0 ] && [ "${counts#* }" -eq 0 ] 2>/dev/null; then counts=; fi
    counts=${counts:-0 1} # ended by a sanitizer: one failure, regardless of passed tests
    passed=$((passed + ${counts% *}))
    failed=$((failed + ${counts#* }))
}

for sanitizer in address thread; do
    "$bin/cmake" -S "$source" -B "$build/$sanitizer" -G Ninja -DCMAKE_MAKE_PROGRAM="$bin/ninja" -DSANITIZER="$sanitizer" >/dev/null
    "$bin/cmake" --build "$build/$sanitizer"
    run tests
done
sanitizer=address # the targets have one thread
run fuzz_table 1500
run fuzz_snapshot 3000

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
