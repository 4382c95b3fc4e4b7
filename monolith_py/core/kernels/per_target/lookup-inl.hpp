// Look-up in groups of fids: prefetch the buckets of one group while probing the previous one.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "index/hash.hpp"
#include "kernels/kernels.hpp"
#include "kernels/per_target/common-inl.hpp"

namespace monolith {
namespace {

// Bit i: slot i holds the key.
[[gnu::always_inline]] inline unsigned match(const Bucket* bucket, int64_t key) {
#if defined(__AVX512VL__)
    const __m256i keys = _mm256_load_si256(reinterpret_cast<const __m256i*>(bucket->keys));
    const __m128i rows = _mm_load_si128(reinterpret_cast<const __m128i*>(bucket->rows));
    return _mm256_cmpeq_epi64_mask(keys, _mm256_set1_epi64x(key)) & _mm_cmpneq_epi32_mask(rows, _mm_set1_epi32(-1));
#elif defined(__AVX2__)
    const __m256i keys = _mm256_load_si256(reinterpret_cast<const __m256i*>(bucket->keys));
    const __m128i rows = _mm_load_si128(reinterpret_cast<const __m128i*>(bucket->rows));
    const int same = _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(keys, _mm256_set1_epi64x(key))));
    const int empty = _mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(rows, _mm_set1_epi32(-1))));
    return static_cast<unsigned>(same & ~empty);
#else
    unsigned found = 0;
    for (int i = 0; i < kSlotsPerBucket; ++i)
        found |= static_cast<unsigned>(bucket->keys[i] == key && bucket->rows[i] != kNoRow) << i;
    return found;
#endif
}

constexpr size_t kGroup = 64;

struct Group {
    Bucket *first[kGroup], *second[kGroup];
    uint32_t at[kGroup];
    size_t size;
};

// Take up to kGroup positions from `*next` on and prefetch their first buckets. `kPart`: only selected positions, with
// hashes.
template <bool kPart>
[[gnu::always_inline]] inline void fetch(MapView map, const int64_t* fids, const uint32_t* selected,
                                         const uint64_t* hashes, size_t* next, size_t n, Group* group) {
    const size_t begin = *next;
    group->size = least(kGroup, n - begin);
    *next += group->size;
    for (size_t i = 0; i < group->size; ++i) {
        const uint32_t at = kPart ? selected[begin + i] : static_cast<uint32_t>(begin + i);
        const uint64_t hash = kPart ? hashes[begin + i] : hash_fid(fids[at]);
        const Shard& shard = map.shards[map.shard_of(hash)];
        group->at[i] = at;
        group->first[i] = first_bucket(shard, hash, map.factors);
        group->second[i] = second_bucket(shard, hash, map.factors);
        __builtin_prefetch(group->first[i], 0, 3);
    }
}

// Probe a group: `hit(at, bucket, slot)` for a present fid, `miss(at)` for an absent one. First buckets come before
// second ones.
template <typename Hit, typename Miss>
[[gnu::always_inline]] inline void probe(const int64_t* fids, const Group& group, Hit&& hit, Miss&& miss) {
    uint8_t later[kGroup];
    size_t num_later = 0;
    for (size_t i = 0; i < group.size; ++i) {
        const unsigned found = match(group.first[i], fids[group.at[i]]);
        if (found) {
            hit(group.at[i], group.first[i], __builtin_ctz(found));
        } else {
            __builtin_prefetch(group.second[i], 0, 3);
            later[num_later++] = static_cast<uint8_t>(i);
        }
    }
    for (size_t k = 0; k < num_later; ++k) {
        const size_t i = later[k];
        const unsigned found = match(group.second[i], fids[group.at[i]]);
        if (found)
            hit(group.at[i], group.second[i], __builtin_ctz(found));
        else
            miss(group.at[i]);
    }
}

void find(MapView map, const int64_t* fids, size_t n, uint32_t* rows) {
    Group groups[2];
    size_t next = 0;
    fetch<false>(map, fids, nullptr, nullptr, &next, n, &groups[0]);
    for (int now = 0; groups[now].size > 0; now ^= 1) {
        fetch<false>(map, fids, nullptr, nullptr, &next, n, &groups[now ^ 1]);
        probe(
            fids, groups[now],
            [&](uint32_t at, const Bucket* bucket, int slot) {
                const uint32_t row = bucket->rows[slot];
                rows[at] = row == kCandidate ? kNoRow : row;
            },
            [&](uint32_t at) { rows[at] = kNoRow; });
    }
}

constexpr size_t kSelect = 2048;  // fids searched at a time for those of a part

template <bool kPart>
[[gnu::always_inline]] inline size_t record_run(MapView map, const int64_t* fids, size_t base, size_t n,
                                                const uint32_t* selected, const uint64_t* hashes, uint16_t now,
                                                uint32_t* rows, uint32_t* missed) {
    Group groups[2];
    size_t next = 0, num_missed = 0;
    fetch<kPart>(map, fids, selected, hashes, &next, n, &groups[0]);
    for (int turn = 0; groups[turn].size > 0; turn ^= 1) {
        fetch<kPart>(map, fids, selected, hashes, &next, n, &groups[turn ^ 1]);
        const size_t before = num_missed;
        probe(
            fids, groups[turn],
            [&](uint32_t at, Bucket* bucket, int slot) {
                const uint32_t row = bucket->rows[slot];
                if (row == kCandidate) {  // a candidate is counted where it may be admitted
                    rows[at] = kNoRow;
                    missed[num_missed++] = static_cast<uint32_t>(base + at);
                    return;
                }
                if (bucket->seen[slot] < now) bucket->seen[slot] = now;
                const uint16_t count = bucket->counts[slot];
                bucket->counts[slot] = static_cast<uint16_t>(count + (count != 0xFFFF));
                rows[at] = row;
            },
            [&](uint32_t at) {
                rows[at] = kNoRow;
                missed[num_missed++] = static_cast<uint32_t>(base + at);
            });
        // Restore the batch order of the group's misses: first and second buckets were probed in turn.
        for (size_t i = before + 1; i < num_missed; ++i) {
            const uint32_t at = missed[i];
            size_t k = i;
            for (; k > before && missed[k - 1] > at; --k) missed[k] = missed[k - 1];
            missed[k] = at;
        }
    }
    return num_missed;
}

size_t record_occurrences(MapView map, const int64_t* fids, size_t n, size_t begin, size_t end, uint16_t now,
                          uint32_t* rows, uint32_t* missed) {
    const size_t num_shards = size_t{1} << (63 - map.shift);
    if (begin == 0 && end == num_shards) return record_run<false>(map, fids, 0, n, nullptr, nullptr, now, rows, missed);
    uint32_t selected[kSelect];
    uint64_t hashes[kSelect];
    size_t num_missed = 0;
    for (size_t base = 0; base < n; base += kSelect) {
        const size_t size = least(kSelect, n - base);
        size_t num = 0;
        for (size_t i = 0; i < size; ++i) {
            const uint64_t hash = hash_fid(fids[base + i]);
            const size_t shard = map.shard_of(hash);
            selected[num] = static_cast<uint32_t>(i);
            hashes[num] = hash;
            num += static_cast<size_t>(shard >= begin) & static_cast<size_t>(shard < end);
        }
        num_missed +=
            record_run<true>(map, fids + base, base, num, selected, hashes, now, rows + base, missed + num_missed);
    }
    return num_missed;
}

}  // namespace
}  // namespace monolith
