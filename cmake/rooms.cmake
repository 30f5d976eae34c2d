# A room is a folder under src/, a namespace and a static library. layers.txt says what it links.

file(STRINGS ${CMAKE_SOURCE_DIR}/layers.txt MINKE_LAYERS REGEX "^[a-z]+:")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/layers.txt)
set(MINKE_ROOMS "")
foreach(line IN LISTS MINKE_LAYERS)
  string(REGEX MATCH "^[a-z]+" room "${line}")
  string(REGEX REPLACE "^[a-z]+: *" "" below "${line}")
  string(REPLACE " " ";" below "${below}")
  list(APPEND MINKE_ROOMS ${room})
  set(MINKE_BELOW_${room} ${below})
endforeach()

function(minke_link_below target scope room)
  foreach(other IN LISTS MINKE_BELOW_${room})
    target_link_libraries(${target} ${scope} minke_${other})
  endforeach()
endfunction()

function(minke_room room)
  cmake_parse_arguments(ARG "" "" "LIBRARIES" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${room}/*.cpp)
  if(NOT sources)
    add_library(minke_${room} INTERFACE)
    set(scope INTERFACE)
  else()
    add_library(minke_${room} STATIC ${sources})
    set(scope PUBLIC)
  endif()
  target_include_directories(minke_${room} ${scope} ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(minke_${room} ${scope} ${ARG_LIBRARIES})
  minke_link_below(minke_${room} ${scope} ${room})
  if("nlohmann_json::nlohmann_json" IN_LIST ARG_LIBRARIES)
    minke_json_headers(minke_${room})
  endif()
endfunction()

# Parsing nlohmann/json.hpp takes most of the time of a file that includes it: it is parsed once.
function(minke_json_headers target)
  if(TARGET minke_base AND NOT target STREQUAL minke_base)
    target_precompile_headers(${target} REUSE_FROM minke_base)
  else()
    target_precompile_headers(${target} PRIVATE <nlohmann/json.hpp> <fmt/format.h> <filesystem>)
  endif()
endfunction()

# Gives the room <room>/commit.h, which says what version and commit are built: at every build, so
# that it is never stale.
function(minke_commit room)
  set(header ${CMAKE_BINARY_DIR}/generated/${room}/commit.h)
  add_custom_target(minke_commit
    COMMAND ${CMAKE_COMMAND} -DSOURCE=${CMAKE_SOURCE_DIR} -DVERSION=${PROJECT_VERSION}
            -DHEADER=${header} -P ${CMAKE_SOURCE_DIR}/cmake/commit.cmake
    BYPRODUCTS ${header}
    COMMENT "Looking up the commit")
  add_dependencies(minke_${room} minke_commit)
  target_include_directories(minke_${room} PRIVATE ${CMAKE_BINARY_DIR}/generated)
endfunction()

# Every file of src/<room>/kernels is compiled once for each instruction set, inside a namespace of
# that set (MINKE_TARGET), so that inline code of one set can never be merged into another's.
function(minke_kernels room)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${room}/kernels/*.cpp)
  if(NOT sources)
    return()
  endif()
  set(flags_scalar "")
  set(flags_avx2 -mavx2 -mfma -mf16c -mbmi2)
  set(flags_avx512 ${flags_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi -mavx512bf16
      -mavx512vnni -mprefer-vector-width=512)
  foreach(set scalar avx2 avx512)
    add_library(minke_${room}_${set} OBJECT ${sources})
    target_include_directories(minke_${room}_${set} PRIVATE ${CMAKE_SOURCE_DIR}/src)
    target_compile_options(minke_${room}_${set} PRIVATE $<$<CONFIG:Release>:-O3> ${flags_${set}})
    set_target_properties(minke_${room}_${set} PROPERTIES UNITY_BUILD OFF)  # they share names
    target_compile_definitions(minke_${room}_${set} PRIVATE MINKE_TARGET=${set} MINKE_TARGET_${set}=1)
    minke_link_below(minke_${room}_${set} PRIVATE ${room})
    target_sources(minke_${room} PRIVATE $<TARGET_OBJECTS:minke_${room}_${set}>)
  endforeach()
endfunction()

function(minke_program name room)
  cmake_parse_arguments(ARG "" "" "LIBRARIES" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${room}/*.cpp)
  if(NOT sources)
    return()
  endif()
  add_executable(${name} ${sources})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(${name} PRIVATE ${ARG_LIBRARIES})
  minke_link_below(${name} PRIVATE ${room})
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  target_precompile_headers(${name} PRIVATE <CLI/CLI.hpp> <nlohmann/json.hpp> <fmt/format.h>
    <filesystem>)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
endfunction()

function(minke_room_tests room)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/${room}/*.cpp)
  if(NOT sources)
    return()
  endif()
  add_executable(test_${room} ${sources})
  target_include_directories(test_${room} PRIVATE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR}/tests)
  target_compile_definitions(test_${room} PRIVATE
    MINKE_GOLDEN_DIR="${CMAKE_SOURCE_DIR}/tests/golden"
    MINKE_SOURCE_DIR="${CMAKE_SOURCE_DIR}" MINKE_PROGRAM="$<TARGET_FILE_DIR:test_${room}>/minke")
  if(TARGET minke_${room})
    target_link_libraries(test_${room} PRIVATE minke_${room})
  endif()
  minke_link_below(test_${room} PRIVATE ${room})
  target_compile_options(test_${room} PRIVATE $<$<CONFIG:Release>:-O1>)
  target_link_libraries(test_${room} PRIVATE minke_ref minke_tensor GTest::gtest GTest::gmock
    GTest::gtest_main)
  if(room STREQUAL base)
    target_precompile_headers(test_base PRIVATE <gmock/gmock.h> <gtest/gtest.h>
      <nlohmann/json.hpp> <fmt/format.h> <filesystem>)
  else()
    target_precompile_headers(test_${room} REUSE_FROM test_base)
  endif()
  if(room STREQUAL text)  # a golden tokenizer is stored as .gz
    target_link_libraries(test_${room} PRIVATE ZLIB::ZLIB)
  endif()
  if(room STREQUAL app)
    add_dependencies(test_${room} minke)
  endif()
  # A suite with Slow in its name is left out under sanitizers, see .ci/run.
  gtest_discover_tests(test_${room} TEST_PREFIX ${room}. NO_PRETTY_VALUES TEST_FILTER -*Slow*
    PROPERTIES LABELS ${room} DISCOVERY_TIMEOUT 60)
  gtest_discover_tests(test_${room} TEST_PREFIX ${room}. NO_PRETTY_VALUES TEST_FILTER *Slow*
    PROPERTIES LABELS slow DISCOVERY_TIMEOUT 60)  # a list of labels would not arrive
endfunction()

# The library fuzz_readers: sources of several rooms, without the rest of those rooms.
function(minke_fuzz_readers)
  add_library(fuzz_readers STATIC EXCLUDE_FROM_ALL ${ARGN})
  target_include_directories(fuzz_readers PUBLIC ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(fuzz_readers PUBLIC minke_base minke_tensor nlohmann_json::nlohmann_json)
endfunction()

# The fuzz target tests/fuzz/<name>.cpp: with libFuzzer where that is asked for, and as a test that runs
# the kept corpus.
function(minke_fuzz name library)
  if(NOT MINKE_FUZZ AND NOT MINKE_TESTS)
    return()
  endif()
  if(MINKE_FUZZ)
    set(target fuzz_${name})
    add_executable(${target} tests/fuzz/${name}.cpp)
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
    if(NOT TARGET fuzz)
      add_custom_target(fuzz)
    endif()
    add_dependencies(fuzz ${target})
  else()
    set(target replay_${name})
    add_executable(${target} tests/fuzz/${name}.cpp tests/fuzz/replay.cpp)
    add_test(NAME fuzz.${name} COMMAND ${target} ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/${name})
    set_tests_properties(fuzz.${name} PROPERTIES LABELS fuzz)
  endif()
  target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR}/tests)
  target_link_libraries(${target} PRIVATE ${library})
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
endfunction()
