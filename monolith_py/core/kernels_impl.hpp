// The hot loops themselves. Included by one source file for each instruction set, which names the result; nothing here
// may be shared with other files, or the linker could give a machine code that it cannot run.
#include <cmath>
#include <cstring>

#include "hash.hpp"
#include "kernels.hpp"
#include "rules.hpp"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace monolith {
namespace {

[[gnu::always_inline]] inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

[[gnu::always_inline]] inline void touch_ahead(const float* row, uint32_t floats) {
    const char* line = reinterpret_cast<const char*>(row);
    for (uint32_t at = 0; at < floats * sizeof(float); at += 64) __builtin_prefetch(line + at, 0, 3);
}
[[gnu::always_inline]] inline void touch_ahead_to_write(float* row, uint32_t floats) {
    char* line = reinterpret_cast<char*>(row);
    for (uint32_t at = 0; at < floats * sizeof(float); at += 64) __builtin_prefetch(line + at, 1, 3);
}

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

// ---- look-up: groups of fids whose lines are on their way while the group before is probed

constexpr size_t kGroup = 64;

struct Group {
    Bucket *first[kGroup], *second[kGroup];
    uint32_t at[kGroup];
    size_t size;
};

// Take up to kGroup of the positions from `*next` on, with their hashes where `kPart`, and start loading their first
// lines.
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
        group->first[i] = first_bucket(shard, hash);
        group->second[i] = second_bucket(shard, hash);
        __builtin_prefetch(group->first[i], 0, 3);
    }
}

// Probe a group: `hit(at, bucket, slot)` where the fid is, `miss(at)` where it is not, in this order for each choice of
// bucket.
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

constexpr size_t kSelect = 2048;  // fids of a part are picked out of this many at a time

template <bool kPart>
[[gnu::always_inline]] inline size_t sight_run(MapView map, const int64_t* fids, size_t base, size_t n,
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
                if (row == kCandidate) {  // counted where it may be admitted
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
        // Misses of a group come by choice of bucket; put them back into the order of the batch.
        for (size_t i = before + 1; i < num_missed; ++i) {
            const uint32_t at = missed[i];
            size_t k = i;
            for (; k > before && missed[k - 1] > at; --k) missed[k] = missed[k - 1];
            missed[k] = at;
        }
    }
    return num_missed;
}

size_t sight(MapView map, const int64_t* fids, size_t n, size_t begin, size_t end, uint16_t now, uint32_t* rows,
             uint32_t* missed) {
    const size_t num_shards = size_t{1} << (63 - map.shift);
    if (begin == 0 && end == num_shards) return sight_run<false>(map, fids, 0, n, nullptr, nullptr, now, rows, missed);
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
            sight_run<true>(map, fids + base, base, num, selected, hashes, now, rows + base, missed + num_missed);
    }
    return num_missed;
}

// ---- gather and pool

constexpr uint32_t lines_ahead(uint32_t dim) { return dim <= 16 ? 48 : dim <= 32 ? 24 : 12; }

template <uint32_t kDim>
void gather_rows(RowsView table, const uint32_t* rows, size_t n, float* weights) {
    const uint32_t dim = kDim ? kDim : table.dim;
    const size_t ahead = lines_ahead(dim);
    for (size_t i = 0; i < n; ++i) {
        if (i + ahead < n && rows[i + ahead] < kCandidate)
            touch_ahead(table.weights + size_t{rows[i + ahead]} * dim, dim);
        float* out = weights + i * dim;
        if (rows[i] < kCandidate)
            std::memcpy(out, table.weights + size_t{rows[i]} * dim, dim * sizeof(float));
        else
            std::memset(out, 0, dim * sizeof(float));
    }
}

template <uint32_t kDim>
void pool_rows(const PoolJob& job) {
    const uint32_t dim = kDim ? kDim : job.table.dim;
    const float* weights = job.table.weights;
    const size_t ahead = lines_ahead(dim), last = static_cast<size_t>(job.offsets[job.end]);
    size_t i = static_cast<size_t>(job.offsets[job.begin]);
    for (size_t k = i; k < least(i + ahead, last); ++k)
        if (job.rows[k] < kCandidate) touch_ahead(weights + size_t{job.rows[k]} * dim, dim);
    for (size_t b = job.begin; b < job.end; ++b) {
        const size_t end = static_cast<size_t>(job.offsets[b + 1]), size = end - i;
        float* out = job.pooled + b * job.stride;
        if (job.pooling == Pooling::kFirst) std::memset(out, 0, size_t{job.first} * dim * sizeof(float));
        float sum[kDim ? kDim : 1];
        float* total = kDim ? sum : out;
        if (kDim || job.pooling != Pooling::kFirst)
            for (uint32_t d = 0; d < dim; ++d) total[d] = 0;
        for (size_t k = 0; i < end; ++i, ++k) {
            if (i + ahead < last && job.rows[i + ahead] < kCandidate)
                touch_ahead(weights + size_t{job.rows[i + ahead]} * dim, dim);
            if (job.rows[i] >= kCandidate) continue;
            const float* row = weights + size_t{job.rows[i]} * dim;
            const float scale = job.scales ? job.scales[i] : 1.0f;
            if (job.pooling == Pooling::kFirst) {
                if (k < job.first)
                    for (uint32_t d = 0; d < dim; ++d) out[k * dim + d] = scale * row[d];
            } else if (job.scales) {
                for (uint32_t d = 0; d < dim; ++d) total[d] += scale * row[d];
            } else {
                for (uint32_t d = 0; d < dim; ++d) total[d] += row[d];
            }
        }
        if (job.pooling == Pooling::kFirst) continue;
        const float share = job.pooling == Pooling::kMean && size > 1 ? 1.0f / static_cast<float>(size) : 1.0f;
        for (uint32_t d = 0; d < dim; ++d) out[d] = total[d] * share;
    }
}

template <template <uint32_t> typename F, typename... Args>
[[gnu::always_inline]] inline auto by_dim(uint32_t dim, Args&&... args) {
    switch (dim) {
        case 8:
            return F<8>::run(args...);
        case 16:
            return F<16>::run(args...);
        case 32:
            return F<32>::run(args...);
        case 64:
            return F<64>::run(args...);
        default:
            return F<0>::run(args...);
    }
}

template <uint32_t kDim>
struct Gather {
    static void run(RowsView table, const uint32_t* rows, size_t n, float* weights) {
        gather_rows<kDim>(table, rows, n, weights);
    }
};
template <uint32_t kDim>
struct Pool {
    static void run(const PoolJob& job) { pool_rows<kDim>(job); }
};

void gather(RowsView table, const uint32_t* rows, size_t n, float* weights) {
    by_dim<Gather>(table.dim, table, rows, n, weights);
}
void pool(const PoolJob& job) { by_dim<Pool>(job.table.dim, job); }

// ---- update: sort by row, then one step for each run of equal rows

uint64_t* sort_rows(const uint32_t* rows, const uint32_t* sources, size_t n, size_t part, size_t parts, uint64_t* order,
                    uint64_t* room, size_t* num) {
    size_t m = 0;
    uint32_t top = 0;
    for (size_t i = 0; i < n; ++i) {
        const uint32_t row = rows[i];
        const bool own = row < kCandidate && (parts == 1 || (uint64_t{row * 0x9E3779B1u} * parts >> 32) == part);
        order[m] = uint64_t{row} << 32 | (sources ? sources[i] : static_cast<uint32_t>(i));
        m += own;
        top = own && row > top ? row : top;
    }
    *num = m;
    // Least digit first (Knuth, volume 3, 5.2.5), which keeps the order of equal rows; as few passes as the greatest
    // row needs.
    const int bits = 32 - __builtin_clz(top | 1),
              passes = bits <= 12   ? 1
                       : bits <= 24 ? 2
                                    : 3,
              width = (bits + passes - 1) / passes;
    const uint32_t mask = (1u << width) - 1;
    uint32_t starts[3][4096];
    std::memset(starts, 0, sizeof starts[0] * static_cast<size_t>(passes));
    for (size_t i = 0; i < m; ++i) {
        const uint32_t row = static_cast<uint32_t>(order[i] >> 32);
        for (int p = 0; p < passes; ++p) ++starts[p][row >> (p * width) & mask];
    }
    for (int p = 0; p < passes; ++p) {
        uint32_t sum = 0;
        for (uint32_t digit = 0; digit <= mask; ++digit) {
            const uint32_t count = starts[p][digit];
            starts[p][digit] = sum;
            sum += count;
        }
        for (size_t i = 0; i < m; ++i)
            room[starts[p][static_cast<uint32_t>(order[i] >> 32) >> (p * width) & mask]++] = order[i];
        uint64_t* const sorted = room;
        room = order;
        order = sorted;
    }
    return order;
}

// What comes before any rule: decay as part of the gradient, then the clip of its norm.
[[gnu::always_inline]] inline void prepare(const Slice& slice, uint32_t dim, const float* w, float* g) {
    const Hyper& h = slice.hyper;
    if (h.weight_decay != 0 && slice.optimizer != Optimizer::kAdamW)
        for (uint32_t d = 0; d < dim; ++d) g[d] += h.weight_decay * w[d];
    if (h.clip_norm > 0) {
        float square = 0;
        for (uint32_t d = 0; d < dim; ++d) square += g[d] * g[d];
        if (square > h.clip_norm * h.clip_norm) {
            const float keep = h.clip_norm / std::sqrt(square);
            for (uint32_t d = 0; d < dim; ++d) g[d] *= keep;
        }
    }
}

inline bool is_zero(const float* values, uint32_t n) {
    for (uint32_t i = 0; i < n; ++i)
        if (values[i] != 0) return false;
    return true;
}

// Walk the runs of equal rows; `step(w, s, g)` takes the step.
template <uint32_t kDim, typename Step>
[[gnu::always_inline]] inline size_t each_row(UpdateJob& job, Step&& step) {
    const uint32_t dim = kDim ? kDim : job.table.dim, state_width = job.table.state_width;
    float* const weights = job.table.weights;
    float* const state = job.table.state;
    const Gradients from = job.gradients;
    const size_t ahead = lines_ahead(dim), gradients_ahead = 16;
    alignas(64) float local[kDim ? kDim : 1];
    float* const sum = kDim ? local : job.sum;
    size_t num_updated = 0;
    for (size_t k = 0; k < job.n;) {
        const uint32_t row = static_cast<uint32_t>(job.order[k] >> 32);
        for (uint32_t d = 0; d < dim; ++d) sum[d] = 0;
        do {
            if (k + ahead < job.n) {
                const size_t coming = static_cast<size_t>(job.order[k + ahead] >> 32);
                touch_ahead_to_write(weights + coming * dim, dim);
                if (state_width) touch_ahead_to_write(state + coming * state_width, state_width);
            }
            const uint32_t source = static_cast<uint32_t>(job.order[k]);
            if (from.gradients == nullptr) {
                if (k + gradients_ahead < job.n)
                    touch_ahead(from.base + static_cast<uint32_t>(job.order[k + gradients_ahead]) * from.stride, dim);
                const float* g = from.base + source * from.stride;
                for (uint32_t d = 0; d < dim; ++d) sum[d] += g[d];
            } else {
                const float* g = from.gradients[source];
                const float scale = from.scales[source];
                for (uint32_t d = 0; d < dim; ++d) sum[d] += scale * g[d];
            }
        } while (++k < job.n && static_cast<uint32_t>(job.order[k] >> 32) == row);
        float* const w = weights + size_t{row} * dim;
        step(w, state + size_t{row} * state_width, sum);
        job.updated[num_updated++] = row;
        if (job.zeroed && is_zero(w, dim)) job.zeroed[job.num_zeroed++] = row;
    }
    return num_updated;
}

template <typename Rule, uint32_t kDim>
size_t update_single(UpdateJob& job) {
    const Slice& slice = job.slices[0];
    const Hyper hyper = slice.hyper;
    const uint32_t dim = kDim ? kDim : slice.dim;
    const bool plain = hyper.weight_decay == 0 && hyper.clip_norm == 0;
    return each_row<kDim>(job, [&](float* w, float* s, float* g) __attribute__((always_inline)) {
        if (!plain) prepare(slice, dim, w, g);
        Rule::step(hyper, dim, w, s, g);
    });
}

template <typename Rule>
struct Single {
    template <uint32_t kDim>
    struct Of {
        static size_t run(UpdateJob& job) { return update_single<Rule, kDim>(job); }
    };
};

void step_slice(const Slice& slice, float* w, float* s, float* g) {
    prepare(slice, slice.dim, w, g);
    const Hyper& h = slice.hyper;
    switch (slice.optimizer) {
        case Optimizer::kSgd:
            return Sgd::step(h, slice.dim, w, s, g);
        case Optimizer::kMomentum:
            return Momentum::step(h, slice.dim, w, s, g);
        case Optimizer::kAdagrad:
            return Adagrad::step(h, slice.dim, w, s, g);
        case Optimizer::kRowwiseAdagrad:
            return RowwiseAdagrad::step(h, slice.dim, w, s, g);
        case Optimizer::kAdadelta:
            return Adadelta::step(h, slice.dim, w, s, g);
        case Optimizer::kRmsprop:
            return Rmsprop::step(h, slice.dim, w, s, g);
        case Optimizer::kAdam:
            return Adam::step(h, slice.dim, w, s, g);
        case Optimizer::kAmsgrad:
            return Amsgrad::step(h, slice.dim, w, s, g);
        case Optimizer::kAdamW:
            return AdamW::step(h, slice.dim, w, s, g);
        case Optimizer::kFtrl:
            return Ftrl::step(h, slice.dim, w, s, g);
        case Optimizer::kGroupAdagrad:
            return GroupAdagrad::step(h, slice.dim, w, s, g);
        case Optimizer::kGroupFtrl:
            return GroupFtrl::step(h, slice.dim, w, s, g);
    }
}

size_t update(UpdateJob& job) {
    job.num_zeroed = 0;
    if (job.num_slices == 1)
        switch (job.slices[0].optimizer) {  // the rules that most tables use have loops of their own
            case Optimizer::kSgd:
                return by_dim<Single<Sgd>::Of>(job.table.dim, job);
            case Optimizer::kAdagrad:
                return by_dim<Single<Adagrad>::Of>(job.table.dim, job);
            case Optimizer::kRowwiseAdagrad:
                return by_dim<Single<RowwiseAdagrad>::Of>(job.table.dim, job);
            case Optimizer::kAdam:
                return by_dim<Single<Adam>::Of>(job.table.dim, job);
            default:
                break;
        }
    return each_row<0>(job, [&](float* w, float* s, float* g) {
        for (size_t i = 0; i < job.num_slices; ++i) {
            const Slice& slice = job.slices[i];
            step_slice(slice, w + slice.weights_at, s + slice.state_at, g + slice.weights_at);
        }
    });
}

// ---- start of a row

// 24 bits as a number in [-1, 1).
[[gnu::always_inline]] inline float symmetric(uint32_t bits) {
    return static_cast<float>(static_cast<int32_t>(bits) >> 8) * (1.0f / 8388608.0f);
}

void start_weights(const Slice& slice, uint64_t bits, float* w) {
    const uint32_t dim = slice.dim, half = dim / 2;
    switch (slice.initializer) {
        case Initializer::kZeros:
            for (uint32_t d = 0; d < dim; ++d) w[d] = 0;
            return;
        case Initializer::kConstant:
            for (uint32_t d = 0; d < dim; ++d) w[d] = slice.init_scale;
            return;
        case Initializer::kXavier:
        case Initializer::kUniform: {
            const float width =
                slice.initializer == Initializer::kUniform
                    ? slice.init_scale
                    // Glorot and Bengio 2010, equation 16, of a layer of one input (the fid) and D outputs
                    : slice.init_scale * std::sqrt(6.0f / static_cast<float>(1 + dim));
            for (uint32_t p = 0; p < half; ++p) {
                const uint64_t x = mix(bits + (p + 1) * kGolden);
                w[p] = width * symmetric(static_cast<uint32_t>(x));
                w[half + p] = width * symmetric(static_cast<uint32_t>(x >> 32));
            }
            if (dim % 2) w[dim - 1] = width * symmetric(static_cast<uint32_t>(mix(bits + (half + 1) * kGolden)));
            return;
        }
        case Initializer::kNormal:
            for (uint32_t d = 0; d < dim; ++d) {  // Box and Muller 1958
                const uint64_t x = mix(bits + (d + 1) * kGolden);
                const double radius =
                    std::sqrt(-2 * std::log((static_cast<double>(x >> 32) + 1) * (1.0 / 4294967296.0)));
                const double angle = static_cast<double>(x & 0xFFFFFFFFu) * (6.283185307179586 / 4294967296.0);
                w[d] = slice.init_scale * static_cast<float>(radius * std::cos(angle));
            }
            return;
    }
}

void start_row(const Slice* slices, size_t num_slices, uint64_t bits, float* weights, float* state) {
    for (size_t i = 0; i < num_slices; ++i) {
        const Slice& slice = slices[i];
        start_weights(slice, i == 0 ? bits : mix(bits + i), weights + slice.weights_at);
        float* s = state + slice.state_at;
        const uint32_t width = state_width(slice), dim = slice.dim;
        for (uint32_t d = 0; d < width; ++d) s[d] = 0;
        switch (slice.optimizer) {
            case Optimizer::kAdagrad:
            case Optimizer::kRowwiseAdagrad:
            case Optimizer::kGroupAdagrad:
                for (uint32_t d = 0; d < width; ++d) s[d] = slice.hyper.initial_accumulator;
                break;
            case Optimizer::kFtrl:
            case Optimizer::kGroupFtrl:
                for (uint32_t d = dim; d < 2 * dim; ++d) s[d] = slice.hyper.initial_accumulator;
                break;
            default:
                break;
        }
    }
}

// ---- rows as bytes

inline float clamped(float value, float low, float high) { return value < low ? low : value > high ? high : value; }

constexpr float kMaxHalf = 65504.0f;

// fp16 scale, fp16 bias, then levels of 8 or 4 bits between the least and the greatest weight, as FBGEMM's row-wise
// quantiser has them.
template <int kBits>
void quantise(const float* w, uint32_t dim, uint8_t* out) {
    constexpr float kLevels = (1 << kBits) - 1;
    float low = w[0], high = w[0];
    for (uint32_t d = 1; d < dim; ++d) {
        low = w[d] < low ? w[d] : low;
        high = w[d] > high ? w[d] : high;
    }
    const _Float16 bias = static_cast<_Float16>(clamped(low, -kMaxHalf, kMaxHalf));
    _Float16 scale = static_cast<_Float16>(clamped((high - static_cast<float>(bias)) / kLevels, 0, kMaxHalf));
    if (static_cast<float>(scale) == 0) scale = static_cast<_Float16>(1.0f);  // equal weights: every level is 0
    std::memcpy(out, &scale, 2);
    std::memcpy(out + 2, &bias, 2);
    const float start = static_cast<float>(bias), inverse = 1.0f / static_cast<float>(scale);
    if constexpr (kBits == 8) {
        for (uint32_t d = 0; d < dim; ++d)
            out[4 + d] = static_cast<uint8_t>(clamped(std::nearbyint((w[d] - start) * inverse), 0, kLevels));
    } else {
        for (uint32_t d = 0; d < dim; d += 2) {
            const auto level = [&](uint32_t at) {
                return static_cast<unsigned>(clamped(std::nearbyint((w[at] - start) * inverse), 0, kLevels));
            };
            out[4 + d / 2] = static_cast<uint8_t>(level(d) | (d + 1 < dim ? level(d + 1) : 0u) << 4);
        }
    }
}

void encode(RowsView table, const Slice* slices, size_t num_slices, const uint32_t* rows, size_t n, uint8_t* encoded,
            size_t row_bytes) {
    const size_t ahead = lines_ahead(table.dim);
    for (size_t i = 0; i < n; ++i) {
        if (i + ahead < n) touch_ahead(table.weights + size_t{rows[i + ahead]} * table.dim, table.dim);
        uint8_t* out = encoded + i * row_bytes;
        for (size_t k = 0; k < num_slices; ++k) {
            const Slice& slice = slices[k];
            const float* w = table.weights + size_t{rows[i]} * table.dim + slice.weights_at;
            switch (slice.encoding) {
                case Encoding::kFp32:
                    std::memcpy(out, w, slice.dim * sizeof(float));
                    break;
                case Encoding::kFp16:
                    for (uint32_t d = 0; d < slice.dim; ++d) {
                        const _Float16 half = static_cast<_Float16>(clamped(w[d], -kMaxHalf, kMaxHalf));
                        std::memcpy(out + 2 * d, &half, 2);
                    }
                    break;
                case Encoding::kInt8:
                    quantise<8>(w, slice.dim, out);
                    break;
                case Encoding::kInt4:
                    quantise<4>(w, slice.dim, out);
                    break;
            }
            out += encoded_bytes(slice.encoding, slice.dim);
        }
    }
}

}  // namespace

extern const Kernels MONOLITH_KERNELS;
const Kernels MONOLITH_KERNELS = {find, sight, gather, pool, sort_rows, update, start_row, encode};

}  // namespace monolith
