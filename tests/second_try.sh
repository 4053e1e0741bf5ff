#!/usr/bin/env bash
# second_try.sh PYTEST...: runs pytest; what has failed is run a second time, by itself, and has to pass then.
#
# Thousands of tests here start processes and wait for what these do. On a machine that is busy with other things one of
# them may miss its time. A fault that is there fails twice. More than five failures, and any other end of pytest, count
# at once; what passed only the second time is named.
set -uo pipefail

most=5
cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT
PYTEST=("$@" -o "cache_dir=$cache")

"${PYTEST[@]}"
code=$?
[ "$code" -eq 1 ] || exit "$code"
failed=$(grep -o '^ *"[^"]*": true' "$cache/v/cache/lastfailed" | cut -d'"' -f2)
count=$(printf '%s\n' "$failed" | grep -c .)
if [ "$count" -eq 0 ] || [ "$count" -gt "$most" ]; then
    exit "$code"
fi
echo "second try, of $count by themselves:"
"${PYTEST[@]}" -n 0 --last-failed --last-failed-no-failures none || exit
sed 's/^/passed only the second time: /' <<< "$failed"
