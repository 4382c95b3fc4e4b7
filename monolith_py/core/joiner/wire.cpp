// Check of UTF-8 text by the table of well-formed byte sequences of the Unicode standard.
#include "joiner/wire.hpp"

namespace monolith::joiner {

namespace {

struct Sequence {
    int length;         // 0: no first byte
    uint8_t low, high;  // range of the second byte
};

Sequence sequence_of(uint8_t first) {
    if (first >= 0xC2 && first <= 0xDF) return {2, 0x80, 0xBF};
    if (first == 0xE0) return {3, 0xA0, 0xBF};
    if (first == 0xED) return {3, 0x80, 0x9F};
    if (first >= 0xE1 && first <= 0xEF) return {3, 0x80, 0xBF};
    if (first == 0xF0) return {4, 0x90, 0xBF};
    if (first >= 0xF1 && first <= 0xF3) return {4, 0x80, 0xBF};
    if (first == 0xF4) return {4, 0x80, 0x8F};
    return {0, 0, 0};
}

}  // namespace

size_t num_chars(std::string_view text) {
    size_t chars = 0;
    for (size_t at = 0; at < text.size(); ++chars) {
        const auto first = static_cast<uint8_t>(text[at]);
        if (first < 128) {
            ++at;
            continue;
        }
        const Sequence sequence = sequence_of(first);
        if (sequence.length == 0 || text.size() - at < static_cast<size_t>(sequence.length)) return SIZE_MAX;
        const auto second = static_cast<uint8_t>(text[at + 1]);
        if (second < sequence.low || second > sequence.high) return SIZE_MAX;
        for (int i = 2; i < sequence.length; ++i)
            if ((static_cast<uint8_t>(text[at + static_cast<size_t>(i)]) & 0xC0) != 0x80) return SIZE_MAX;
        at += static_cast<size_t>(sequence.length);
    }
    return chars;
}

}  // namespace monolith::joiner
