// The data of a page, whatever text is in it.
#include "study/pages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace minke::study {
namespace {

using Json = nlohmann::ordered_json;

TEST(Pages, DataOfAnyTextEndsWhereItsScriptEnds) {
  const Json data = {{"text", "a </script> b <!--<script> c \\ < d"}, {"n", 1}};
  for (const char* name : {"report", "watch", "route"}) {
    const std::string html = page(name, data);
    const std::string mark = "type=\"application/json\">";
    const size_t begin = html.find(mark);
    ASSERT_NE(begin, std::string::npos) << name;
    // Any "<" could begin what HTML's parser takes for its own.
    const size_t end = html.find('<', begin + mark.size());
    EXPECT_EQ(html.substr(end, 9), "</script>") << name;
    EXPECT_EQ(Json::parse(html.substr(begin + mark.size(), end - begin - mark.size())), data);
  }
}

}  // namespace
}  // namespace minke::study
