// Hash of fids, and the random bits of initial weights and admission.
#pragma once

#include <cstdint>

namespace monolith {

// Finaliser of MurmurHash3 (Appleby): a bijection on 64 bits, so equal hashes mean equal fids.
[[gnu::always_inline]] inline constexpr uint64_t mix(uint64_t x) {
    x ^= x >> 33;
    x *= 0xFF51AFD7ED558CCDull;
    x ^= x >> 33;
    x *= 0xC4CEB9FE1A85EC53ull;
    return x ^ (x >> 33);
}

[[gnu::always_inline]] inline constexpr uint64_t hash_fid(int64_t fid) { return mix(static_cast<uint64_t>(fid)); }

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15ull;

// Seed of a fid's initial weights and admission draw. Depends on (seed, fid) only.
[[gnu::always_inline]] inline constexpr uint64_t seeded_hash(uint64_t seed, int64_t fid) {
    return hash_fid(fid) ^ mix(seed + kGolden);
}

// Uniform number in [0, 1), 53 bits.
[[gnu::always_inline]] inline constexpr double unit_interval(uint64_t bits) {
    return static_cast<double>(bits >> 11) * (1.0 / 9007199254740992.0);
}

}  // namespace monolith
