#include "joiner/blake2b.hpp"

#include <array>
#include <bit>

#include "joiner/wire.hpp"

namespace monolith::joiner {

namespace {

constexpr size_t kBlock = 128, kDigest = 8;
constexpr std::array<uint64_t, 8> kStart = {0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B,
                                            0xA54FF53A5F1D36F1, 0x510E527FADE682D1, 0x9B05688C2B3E6C1F,
                                            0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179};
constexpr uint8_t kOrder[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};
// Columns, then diagonals of the 4 x 4 state.
constexpr uint8_t kQuads[8][4] = {{0, 4, 8, 12},  {1, 5, 9, 13},  {2, 6, 10, 14}, {3, 7, 11, 15},
                                  {0, 5, 10, 15}, {1, 6, 11, 12}, {2, 7, 8, 13},  {3, 4, 9, 14}};

void compress(std::array<uint64_t, 8>& state, std::string_view block, uint64_t count, bool is_last) {
    uint64_t words[16], v[16];
    for (size_t i = 0; i < 16; ++i) words[i] = load<uint64_t>(block.data() + i * 8);
    for (size_t i = 0; i < 8; ++i) v[i] = state[i], v[i + 8] = kStart[i];
    v[12] ^= count;
    if (is_last) v[14] = ~v[14];
    for (size_t round = 0; round < 12; ++round)
        for (size_t quad = 0; quad < 8; ++quad) {
            uint64_t &a = v[kQuads[quad][0]], &b = v[kQuads[quad][1]], &c = v[kQuads[quad][2]], &d = v[kQuads[quad][3]];
            const uint8_t* order = kOrder[round % 10] + 2 * quad;
            a += b + words[order[0]];
            d = std::rotr(d ^ a, 32);
            c += d;
            b = std::rotr(b ^ c, 24);
            a += b + words[order[1]];
            d = std::rotr(d ^ a, 16);
            c += d;
            b = std::rotr(b ^ c, 63);
        }
    for (size_t i = 0; i < 8; ++i) state[i] ^= v[i] ^ v[i + 8];
}

}  // namespace

uint64_t blake2b_64(std::string_view message, std::string_view person) {
    char parameters[64] = {kDigest, 0, 1, 1};  // no key; fan-out and depth 1: no tree
    person.copy(parameters + 48, 16);
    std::array<uint64_t, 8> state = kStart;
    for (size_t i = 0; i < 8; ++i) state[i] ^= load<uint64_t>(parameters + i * 8);
    uint64_t count = 0;
    for (; message.size() > kBlock; message.remove_prefix(kBlock)) {
        count += kBlock;
        compress(state, message, count, false);
    }
    char last[kBlock] = {};
    message.copy(last, kBlock);
    compress(state, {last, kBlock}, count + message.size(), true);
    return state[0];
}

}  // namespace monolith::joiner
