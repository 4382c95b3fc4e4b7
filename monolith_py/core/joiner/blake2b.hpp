// BLAKE2b (RFC 7693) with a digest of 8 bytes and a personalisation, for the sampling of negatives.
#pragma once

#include <cstdint>
#include <string_view>

namespace monolith::joiner {

// Return the digest of `message` as a little-endian number; `person` has at most 16 bytes.
uint64_t blake2b_64(std::string_view message, std::string_view person);

}  // namespace monolith::joiner
