# Writes the version and the commit that are being built into a header, at build time, and only when it changed.
# Usage: cmake -DSOURCE=<top> -DVERSION=<version> -DHEADER=<file> -P commit.cmake
cmake_minimum_required(VERSION 3.25)

# describe --dirty would refresh the index, and so take the lock that a commit at this moment needs.
set(ENV{GIT_OPTIONAL_LOCKS} 0)
set(commit "")
if(EXISTS ${SOURCE}/.git)
  execute_process(COMMAND git -C ${SOURCE} describe --always --dirty --abbrev=10
    OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE result)
endif()
if(NOT commit)
  set(commit unknown)
endif()
file(CONFIGURE OUTPUT ${HEADER} @ONLY CONTENT
  "#pragma once\n#define MINKE_VERSION \"@VERSION@\"\n#define MINKE_COMMIT \"@commit@\"\n")
