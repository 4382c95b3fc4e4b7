// Secret of the process for hash tables: without it, crafted ids could crowd a few buckets and take all memory.
#pragma once

#include <sys/random.h>

#include <cstdint>
#include <cstdlib>
#include <ctime>

#include "index/bucket.hpp"
#include "index/hash.hpp"

namespace monolith {

// 64 random bits, drawn once; the number in MONOLITH_HASH_SEED instead, so that a run with a memory budget, whose
// evictions sample buckets, can be repeated (as PYTHONHASHSEED does for Python).
inline uint64_t hash_secret() {
    static const uint64_t secret = [] {
        uint64_t bits = 0;
        if (const char* given = std::getenv("MONOLITH_HASH_SEED"); given && *given)
            return mix(std::strtoull(given, nullptr, 10) + kGolden);
        if (::getrandom(&bits, sizeof bits, 0) != sizeof bits)
            bits = mix(static_cast<uint64_t>(std::time(nullptr)) ^ reinterpret_cast<uintptr_t>(&bits));
        return bits;
    }();
    return secret;
}

inline BucketFactors bucket_factors() {
    return {mix(hash_secret() + kGolden) | 1, mix(hash_secret() + 2 * kGolden) | 1};
}

// Hash for standard containers of fids: theirs is the fid itself.
struct FidHash {
    size_t operator()(int64_t fid) const { return mix(static_cast<uint64_t>(fid) ^ hash_secret()) * kGolden; }
};

}  // namespace monolith
