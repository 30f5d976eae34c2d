# minke_embed(room NAME files...): the files' bytes in the program, as
#   std::string_view minke::<room>::embedded(std::string_view file_name)   (empty where there is none)
function(minke_embed room)
  set(out ${CMAKE_BINARY_DIR}/generated/${room}_embedded.cpp)
  set(cases "")
  foreach(file IN LISTS ARGN)
    file(READ ${CMAKE_SOURCE_DIR}/${file} bytes HEX)
    string(REGEX REPLACE "(..)" "\\\\x\\1" bytes "${bytes}")
    # A string literal may not grow without end, and \x takes all hex digits that follow: both are
    # met by adjacent literals of one byte row each.
    string(REGEX REPLACE "((\\\\x..)(\\\\x..)?(\\\\x..)?(\\\\x..)?(\\\\x..)?(\\\\x..)?(\\\\x..)?(\\\\x..)?)" "\"\\1\"\n" bytes "${bytes}")
    get_filename_component(name ${file} NAME)
    string(APPEND cases "  if (name == \"${name}\") {\n    static constexpr char kBytes[] =\n${bytes};\n    return {kBytes, sizeof kBytes - 1};\n  }\n")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${file})
  endforeach()
  file(CONFIGURE OUTPUT ${out} @ONLY CONTENT
"#include <string_view>
namespace minke::${room} {
std::string_view embedded(std::string_view name);
std::string_view embedded(std::string_view name) {
@cases@  return {};
}
}  // namespace minke::${room}
")
  target_sources(minke_${room} PRIVATE ${out})
endfunction()
