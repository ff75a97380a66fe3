# shellcheck shell=bash
# Sourced by tests that read JSON from the program, after faults_lib.sh.

# is_object: standard output is one line, an object whose brackets balance outside of strings.
is_object() {
    [ "$(wc -l <out)" -eq 1 ] || fail "--json: not one line"
    sed 's/"[^"]*"//g' out | awk '{ for (i = 1; i <= length($0); i++) { c = substr($0, i, 1)
        if (c == "{" || c == "[") stack = stack c
        if (c == "}" || c == "]") { top = substr(stack, length(stack)); stack = substr(stack, 1, length(stack) - 1)
            if (top c != "{}" && top c != "[]") exit 1 } } exit stack != "" }' || fail "--json: brackets do not match"
}
