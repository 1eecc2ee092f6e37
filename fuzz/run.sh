#!/usr/bin/env bash
# Fuzzes every target for some seconds each, on the stable toolchain: fuzz/run.sh [SECONDS [TARGET]...]
# New inputs and crashes stay below fuzz/target; fuzz/corpus is only read.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(wire merge hello dns config registration
    mesh filter body policy request invitation edict certificate)
host=$(rustc -vV | sed -n 's/^host: //p')
out=${CARGO_TARGET_DIR:-target}

# What cargo-fuzz passes on the nightly toolchain, spelled in options that stable has.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"
# With an explicit target build scripts and macros are not instrumented.
cargo build --release --target "$host" "${targets[@]/#/--bin=}"

for target in "${targets[@]}"; do
    found="$out/found/$target"
    mkdir -p "$found"
    echo "== $target: $seconds s"
    "$out/$host/release/$target" "$found" "corpus/$target" -max_total_time="$seconds" -artifact_prefix="$found/crash-" \
        -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 2>&1 | grep -vE '^#[0-9]+\s+(NEW|REDUCE|RELOAD)'
done
