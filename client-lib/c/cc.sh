#!/bin/sh
# The linker of libdmashare.so: puts libdmashare.map in the place of the version script that rustc
# makes for every cdylib. That one is anonymous, names what is exported and hides the rest; no linker
# takes it together with one that has versions. All else goes to the C compiler as it is.
#
# DMASHARE_LINKER is the C compiler to link with, `cc` by default.
set -eu
map=${0%/*}/libdmashare.map

library=
for argument; do
    case $argument in
    -Wl,-soname,libdmashare.so*) library=yes ;;
    esac
done

if [ "$library" ]; then
    count=$#
    while [ "$count" -gt 0 ]; do
        argument=$1
        shift
        case $argument in
        -Wl,--version-script=*) argument=-Wl,--version-script=$map ;;
        esac
        set -- "$@" "$argument"
        count=$((count - 1))
    done
fi
exec "${DMASHARE_LINKER:-cc}" "$@"
