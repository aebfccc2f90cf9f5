#!/usr/bin/env bash
# Fuzzes the plan decoder and the readers of archives, of a bus and of plug-ins' answers for a while (20 s each, or the seconds given), and replays the
# decoder's seeds, corpus and former crashes under gcc's sanitizers.  The corpora grow in build/fuzz; what crashed once
# belongs in tests/fuzz/crashes.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"

SECONDS_=${1-20}
OUT=build/fuzz
mkdir -p "$OUT/corpus"
WARN=(-g -O1 -Wall -Wextra -Werror -Inative)
SANITIZE=address,undefined

.venv/bin/python tests/fuzz/seeds.py "$OUT/seeds"
clang "${WARN[@]}" -fsanitize=fuzzer,$SANITIZE -fno-sanitize-recover=all tests/fuzz/fuzz_plan.c native/decode.c -o "$OUT/fuzz_plan"
gcc "${WARN[@]}" -fsanitize=$SANITIZE -fno-sanitize-recover=all tests/fuzz/fuzz_plan.c tests/fuzz/replay.c native/decode.c -o "$OUT/replay"

"$OUT/replay" --seeds "$OUT"/seeds/*
shopt -s nullglob
"$OUT/replay" tests/fuzz/crashes/* "$OUT"/corpus/*
"$OUT/fuzz_plan" -max_total_time="$SECONDS_" -max_len=65536 -timeout=5 -rss_limit_mb=1024 -verbosity=0 \
    -print_final_stats=1 -artifact_prefix="$OUT/" "$OUT/corpus" "$OUT/seeds"

mkdir -p "$OUT/bus-corpus"
.venv/bin/python tests/fuzz/bus_seeds.py "$OUT/bus-seeds"
clang "${WARN[@]}" -fsanitize=fuzzer,$SANITIZE -fno-sanitize-recover=all tests/fuzz/fuzz_bus.c native/say.c -o "$OUT/fuzz_bus"
"$OUT/fuzz_bus" -max_total_time="$SECONDS_" -max_len=70000 -timeout=5 -rss_limit_mb=1024 -verbosity=0 \
    -print_final_stats=1 -artifact_prefix="$OUT/bus-" "$OUT/bus-corpus" "$OUT/bus-seeds"

mkdir -p "$OUT/result-corpus"
.venv/bin/python tests/fuzz/result_seeds.py "$OUT/result-seeds"
clang "${WARN[@]}" -fsanitize=fuzzer,$SANITIZE -fno-sanitize-recover=all tests/fuzz/fuzz_result.c -o "$OUT/fuzz_result"
"$OUT/fuzz_result" -max_total_time="$SECONDS_" -max_len=66000 -timeout=5 -rss_limit_mb=1024 -verbosity=0 \
    -print_final_stats=1 -artifact_prefix="$OUT/result-" "$OUT/result-corpus" "$OUT/result-seeds"

mkdir -p "$OUT/untar-corpus"
.venv/bin/python tests/fuzz/untar_seeds.py "$OUT/untar-seeds"
clang "${WARN[@]}" -Inative/untar -fsanitize=fuzzer,$SANITIZE -fno-sanitize-recover=all tests/fuzz/fuzz_untar.c native/untar/*.c -lcrypto \
    -o "$OUT/fuzz_untar"
exec "$OUT/fuzz_untar" -max_total_time="$SECONDS_" -max_len=16384 -timeout=5 -rss_limit_mb=1024 -verbosity=0 -use_value_profile=1 \
    -print_final_stats=1 -artifact_prefix="$OUT/untar-" "$OUT/untar-corpus" "$OUT/untar-seeds"
