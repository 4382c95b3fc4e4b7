// What the machine allows, for the table's figures to be held against: no hashing, no keys compared, nothing but the
// memory traffic. One thread. bench_table.py compiles this file and calls it through ctypes.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#if __has_include(<boost/version.hpp>)
#include <boost/version.hpp>
#if BOOST_VERSION >= 108100
#include <boost/unordered/unordered_flat_map.hpp>
#define HAS_FLAT_MAP 1
#endif
#endif

namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kLine = 64;
constexpr size_t kGroup = 64;       // ids of a probe group
constexpr size_t kLinesAhead = 64;  // cache lines of rows on their way
constexpr size_t kGradientsAhead = 16;
constexpr int kDigitBits = 12;

// As the table's: four entries in one cache line.
struct Bucket {
    int64_t keys[4];
    uint32_t rows[4];
    uint32_t meta[4];
};
static_assert(sizeof(Bucket) == kLine);

template <size_t kLines>
void prefetch_row(const char* row) {
    for (size_t l = 0; l < kLines; ++l) __builtin_prefetch(row + l * kLine);
}

// While the rows of one group arrive, the bucket lines of the next are fetched.
template <size_t kLines>
void probe_gather(const Bucket* buckets, const char* rows, const uint32_t* places, size_t n, char* out) {
    constexpr size_t kWidth = kLines * kLine;
    uint32_t found[kGroup];
    for (size_t i = 0; i < std::min(kGroup, n); ++i) __builtin_prefetch(&buckets[places[i] / 4]);
    for (size_t start = 0; start < n; start += kGroup) {
        const size_t end = std::min(n, start + kGroup);
        for (size_t i = start; i < end; ++i) {
            if (i + kGroup < n) __builtin_prefetch(&buckets[places[i + kGroup] / 4]);
            found[i - start] = buckets[places[i] / 4].rows[places[i] % 4];
            prefetch_row<kLines>(rows + found[i - start] * kWidth);
        }
        for (size_t i = start; i < end; ++i) std::memcpy(out + i * kWidth, rows + found[i - start] * kWidth, kWidth);
    }
}

// Least significant digit first, so that gradients of one row stay in the order of the batch.
const uint64_t* sort_by_row(const uint32_t* rows, size_t n, uint32_t num_rows) {
    static std::vector<uint64_t> pairs, spare;
    pairs.resize(n);
    spare.resize(n);
    for (size_t i = 0; i < n; ++i) pairs[i] = uint64_t{rows[i]} << 32 | i;
    for (int shift = 32; num_rows >> (shift - 32) != 0; shift += kDigitBits) {
        uint32_t starts[1 << kDigitBits] = {};
        constexpr uint64_t kMask = (1 << kDigitBits) - 1;
        for (size_t i = 0; i < n; ++i) ++starts[pairs[i] >> shift & kMask];
        uint32_t sum = 0;
        for (uint32_t& start : starts) sum += std::exchange(start, sum);
        for (size_t i = 0; i < n; ++i) spare[starts[pairs[i] >> shift & kMask]++] = pairs[i];
        std::swap(pairs, spare);
        if (shift + kDigitBits >= 64) break;
    }
    return pairs.data();
}

// With `state`, one float a row, the step is row-wise Adagrad's, so that line is read and written too.
template <size_t kLines>
void sorted_update(float* weights, float* state, const float* gradients, const uint64_t* pairs, size_t n, float lr) {
    constexpr size_t kWidth = kLines * kLine, kDim = kWidth / sizeof(float);
    constexpr size_t kRowsAhead = std::max<size_t>(8, kLinesAhead / kLines);
    for (size_t k = 0; k < n; ++k) {
        if (k + kRowsAhead < n) {
            const char* row = reinterpret_cast<const char*>(weights) + (pairs[k + kRowsAhead] >> 32) * kWidth;
            for (size_t l = 0; l < kLines; ++l) __builtin_prefetch(row + l * kLine, 1);
            if (state) __builtin_prefetch(state + (pairs[k + kRowsAhead] >> 32), 1);
        }
        if (k + kGradientsAhead < n)
            prefetch_row<kLines>(reinterpret_cast<const char*>(gradients) +
                                 static_cast<uint32_t>(pairs[k + kGradientsAhead]) * kWidth);
        float* row = weights + (pairs[k] >> 32) * kDim;
        const float* gradient = gradients + static_cast<uint32_t>(pairs[k]) * kDim;
        float rate = lr;
        if (state) {
            float square = 0;
            for (size_t d = 0; d < kDim; ++d) square += gradient[d] * gradient[d];
            float& sum = state[pairs[k] >> 32];
            sum += square / kDim;
            rate /= std::sqrt(sum) + 1e-8f;
        }
        for (size_t d = 0; d < kDim; ++d) row[d] -= rate * gradient[d];
    }
}

}  // namespace

extern "C" {

// Zeroed memory on huge pages, touched; null where there is none.
void* limits_map(size_t num_bytes) {
    num_bytes = (num_bytes + kHugePage - 1) / kHugePage * kHugePage;
    void* memory = mmap(nullptr, num_bytes + kHugePage, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    // What lies before and behind the aligned part is never touched, so it costs nothing; unmap takes it by address.
    char* aligned =
        reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(memory) + kHugePage - 1) / kHugePage * kHugePage);
    madvise(aligned, num_bytes, MADV_HUGEPAGE);
    for (size_t i = 0; i < num_bytes; i += 4096) aligned[i] = 0;
    return aligned;
}

void limits_unmap(void* memory, size_t num_bytes) {
    munmap(memory, (num_bytes + kHugePage - 1) / kHugePage * kHugePage);
}

// places: (n,) of entries, four to a bucket; row numbers are written there.
void limits_fill(Bucket* buckets, const uint32_t* places, size_t num_rows) {
    for (size_t row = 0; row < num_rows; ++row)
        buckets[places[row] / 4].rows[places[row] % 4] = static_cast<uint32_t>(row);
}

// rows and out have `lines` cache lines each; returns 0 where that width is not compiled.
int limits_probe_gather(const Bucket* buckets, const char* rows, const uint32_t* places, size_t n, size_t lines,
                        char* out) {
    switch (lines) {
        case 1:
            return probe_gather<1>(buckets, rows, places, n, out), 1;
        case 2:
            return probe_gather<2>(buckets, rows, places, n, out), 1;
        case 4:
            return probe_gather<4>(buckets, rows, places, n, out), 1;
        default:
            return 0;
    }
}

// w -= lr * g for each id, rows in ascending order, or with `state` row-wise Adagrad's step; duplicates are not summed
// first.
int limits_sort_update(float* weights, float* state, const float* gradients, const uint32_t* rows, size_t n,
                       uint32_t num_rows, size_t lines, float lr) {
    const uint64_t* pairs = sort_by_row(rows, n, num_rows);
    switch (lines) {
        case 1:
            return sorted_update<1>(weights, state, gradients, pairs, n, lr), 1;
        case 2:
            return sorted_update<2>(weights, state, gradients, pairs, n, lr), 1;
        case 4:
            return sorted_update<4>(weights, state, gradients, pairs, n, lr), 1;
        default:
            return 0;
    }
}

#ifdef HAS_FLAT_MAP

struct Mix {
    using is_avalanching = void;
    size_t operator()(uint64_t x) const {
        x ^= x >> 33;
        x *= 0xFF51AFD7ED558CCDull;
        x ^= x >> 33;
        x *= 0xC4CEB9FE1A85EC53ull;
        return x ^ (x >> 33);
    }
};
using FlatMap = boost::unordered_flat_map<uint64_t, uint32_t, Mix>;

void* flat_map_new() { return new FlatMap; }
void flat_map_delete(void* map) { delete static_cast<FlatMap*>(map); }
size_t flat_map_insert(void* map, const uint64_t* keys, size_t n) {
    FlatMap& flat = *static_cast<FlatMap*>(map);
    for (size_t i = 0; i < n; ++i) flat.emplace(keys[i], static_cast<uint32_t>(flat.size()));
    return flat.size();
}

#endif
}
