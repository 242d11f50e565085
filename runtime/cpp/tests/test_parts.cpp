// Parts that the comparison with Python does not reach.
#include <doctest/doctest.h>

#include <string>

#include "error.hpp"
#include "image_file.hpp"
#include "library.hpp"
#include "noise.hpp"
#include "onnx_scan.hpp"
#include "plan.hpp"
#include "sha256.hpp"
#include "text.hpp"

using namespace vcut_core;

TEST_CASE("words are Random123's") {
  using Words = std::array<uint32_t, 4>;
  CHECK(philox({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  constexpr uint32_t all = 0xffffffff;
  CHECK(philox({all, all, all, all}, {all, all}) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("values in Python's words") {
  CHECK(repr("it's") == "\"it's\"");
  CHECK(repr("a'b\"c\n\x01\\") == "'a\\'b\"c\\n\\x01\\\\'");
  CHECK(number(1.0) == "1.0");
  CHECK(number(0.1) == "0.1");
  CHECK(number(1e16) == "1e+16");
  CHECK(number(123456.0) == "123456.0");
  CHECK(number(1e-5) == "1e-05");
  CHECK(short_number(0.5) == "0.5");
  CHECK(one_line("  a\n b\t\tc ") == "a b c");
  CHECK(printable("\xc3\xa9 \xff\xe5\x8a\xa8\xc3") == "\xc3\xa9 ?\xe5\x8a\xa8?");
  CHECK(printable(" a\n\r\n b\tc\x1b[31m\xc2\x85\xe2\x80\xae ") == "a b\\tc\\x1b[31m \\u202e");
  CHECK(printable("abcdefgh", 4) == "ab \xe2\x80\xa6 gh");
  CHECK(repr("a\xc2\xa0\xf3\xa0\x80\x81'") == "\"a\\xa0\\U000e0001'\"");
}

TEST_CASE("sha256") {
  CHECK(sha256("abc", 3) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_CASE("a graph's other files and operators are seen wherever they are named, and broken graphs are refused") {
  const auto field = [](int number, const std::string& content) {
    std::string tag;
    for (int rest = number << 3 | 2; true; rest >>= 7) {
      tag += static_cast<char>((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
      if (rest <= 0x7f) break;
    }
    return tag + static_cast<char>(content.size()) + content;
  };
  const std::string entry = field(1, "location") + field(2, "secret");
  const std::string tensor = field(13, entry);
  CHECK(scan_graph(field(7, field(5, tensor))).locations == std::set<std::string>{"secret"});
  const std::string attribute = field(6, field(5, tensor));  // of a node: a graph
  CHECK(scan_graph(field(7, field(1, field(5, attribute)))).locations == std::set<std::string>{"secret"});
  CHECK(scan_graph("").locations.empty());
  const std::string inner = field(1, field(4, "Loop") + field(7, "ai.onnx") + field(4, "If"));
  CHECK(scan_graph(field(7, field(1, field(4, "Add") + field(5, field(6, inner))))).operators ==
        std::set<std::string>{"Add", "ai.onnx::If"});
  const auto sized = [&](const std::string& numbers) {
    const std::string expand = field(1, "x") + field(1, "size") + field(4, "Expand");
    return scan_graph(field(7, field(1, expand) + field(5, field(8, "size") + numbers))).largest;
  };
  CHECK(sized(field(9, std::string("\x03\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0", 16))) == 3 * 65536);
  CHECK(sized(field(7, "\x80\x01\x05")) == 640);
  CHECK(sized("\x38\x06\x38\x07") == 42);  // one number to a field
  CHECK(sized(field(9, std::string(96, '\x7f'))) == 1e18);
  CHECK(sized(field(9, std::string(8, '\xff'))) == 1);
  CHECK(is_exported("com.microsoft::MultiHeadAttention"));
  CHECK(!is_exported("com.microsoft::Add"));
  CHECK_THROWS_AS(scan_graph("\x0a\x7f"), Wrong);
  CHECK_THROWS_AS(scan_graph(std::string(12, '\xff')), Wrong);
  CHECK_THROWS_AS(scan_graph("\x0d\x01"), Wrong);
}

TEST_CASE("chunks overlap at seams, and the last one has all the context that it can have") {
  const auto chunks = decode_chunks(7, 4, 1, true);
  REQUIRE(chunks.size() == 3);
  CHECK(chunks[1].start == 2);
  CHECK(chunks[1].keep_from == 3);
  CHECK(chunks[1].keep_to == 5);
  CHECK(chunks[2].start == 3);
  CHECK(chunks[2].keep_to == 7);
  CHECK_THROWS_AS(decode_chunks(7, 2, 1, true), Error);
}

TEST_CASE("images that are none are refused") {
  std::vector<std::string> notes;
  CHECK_THROWS_AS(decode_image("", 0, "the image", notes), Error);
  CHECK_THROWS_AS(decode_image("GIF89a", 6, "the image", notes), Error);
  CHECK_THROWS_AS(decode_image("\xff\xd8\xff", 3, "the image", notes), Error);
  CHECK_THROWS_AS(decode_image("\x89PNG\r\n\x1a\n", 8, "the image", notes), Error);
  const float outside[] = {0.5F, 1.5F, -0.5F};
  CHECK_THROWS_WITH(to_levels(outside, 3),
                    "a float image array must lie between 0 and 1; this one goes from -0.5 to 1.5");
}

TEST_CASE("a library that is not there is named with what to do") {
  CHECK_THROWS_WITH_AS(SharedLibrary({"/nothing.so"}, "ONNX Runtime", "install it"),
                       doctest::Contains("ONNX Runtime does not load (/nothing.so"), Error);
}
