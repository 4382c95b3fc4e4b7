// Interface of the kernels: compiled once for each instruction set, chosen at run time. Kernels hold no state; calls
// may run together on different outputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "index/bucket.hpp"
#include "kernels/dense_kernels.hpp"
#include "kernels/replica_kernels.hpp"
#include "kernels/settings.hpp"
#include "kernels/tower_kernels.hpp"

namespace monolith {

// Rows by id: row r begins at weights + r * dim, its optimizer state at state + r * state_width.
struct RowsView {
    float* weights;
    float* state;
    uint32_t dim, state_width;
};

// A bag is a run of positions. Each position has the row of its fid, or NO_ROW.
enum class Pooling : uint32_t { kSum, kMean, kFirst };

struct PoolJob {
    RowsView table;
    const uint32_t* rows;    // by position
    const int64_t* offsets;  // of the bags, (num_bags + 1,), positions
    const float* scales;     // by position; null: all one
    size_t begin, end;       // bags
    Pooling pooling;
    uint32_t first;  // kFirst: number of rows of a bag that are kept
    float* pooled;   // destination of bag 0
    size_t stride;   // floats between consecutive bags
};

// Gradients of an update. Position i has source sources[i]; source s has the gradient at addresses[s], or at base +
// s * stride, times scales[s].
struct Gradients {
    const float* base;
    size_t stride;
    const float* const* addresses = nullptr;  // null: strided
    const float* scales = nullptr;            // null: all one
    const uint32_t* sources = nullptr;        // null: the positions themselves
};

// Positions of a batch to sort by row. Takes the rows that hash to part `part` of `parts`.
struct SortJob {
    const uint32_t* rows;     // by position; below `end`, or NO_ROW
    const uint32_t* sources;  // as in Gradients
    size_t n;
    size_t part, parts;
    size_t end;
    uint64_t *order, *scratch;  // room for n each
    size_t num;                 // out: length of the result
};

struct UpdateJob {
    RowsView table;
    const Slice* slices;
    size_t num_slices;
    Gradients gradients;
    const uint64_t* order;  // row << 32 | source, sorted by row; sources of one row in their order of summation
    size_t n;
    float* sum;          // room for one row
    uint32_t* updated;   // out: each updated row once; room for n
    bool counts_zeroed;  // whether to count the rows that the step sets to zero
    size_t num_zeroed;   // out
};

// Pooled rows of the examples [begin, end), feature by feature: (B, F * D).
struct PooledRows {
    const float* pooled;
    uint32_t num_features, dim;
    size_t begin, end;

    size_t width() const { return size_t{num_features} * dim; }
};

// Destination of the gradients of pooled rows, (B, F * D). Adds the gradients at beside + b * beside_stride if `beside`
// is not null; `beside` may equal `gradients`.
struct GradientsOfRows {
    const float* beside;
    size_t beside_stride;
    float* gradients;
    bool past_cache;  // use non-temporal stores: rows of 16 floats begin cache lines, and the matrix exceeds kPastCache
};

inline size_t num_pairs(size_t num_features) { return num_features * (num_features - 1) / 2; }

struct Kernels {
    // Row of each fid; NO_ROW where it is absent or not admitted.
    void (*find)(MapView map, const int64_t* fids, size_t n, uint32_t* rows);
    // Find the fids of shards [begin, end), count their occurrences and set the time of the last one; leave other fids'
    // `rows` unchanged. Returns how many positions have no row, and lists them in `missed` in order. Calls for disjoint
    // ranges of shards may run together.
    size_t (*record_occurrences)(MapView map, const int64_t* fids, size_t n, size_t begin, size_t end, uint16_t now,
                                 uint32_t* rows, uint32_t* missed);
    // Copy rows; NO_ROW gives zeros.
    void (*gather)(RowsView table, const uint32_t* rows, size_t n, float* weights);
    void (*pool)(const PoolJob& job);
    // Sort positions by row, equal rows by position: row << 32 | source. Returns that of `order` and `scratch` which
    // has the result.
    uint64_t* (*sort_rows)(SortJob& job);
    // Sum the gradients of each row and take one optimizer step; returns the number of rows.
    size_t (*update)(UpdateJob& job);
    // Initial weights and state of a row; depends on `bits`, the fid's seeded hash, only.
    void (*start_row)(const Slice* slices, size_t num_slices, uint64_t bits, float* weights, float* state);
    // Whether every value is finite and below 2^48 in magnitude: the squared sum over a batch is then finite too.
    bool (*all_bounded)(const float* values, size_t n);
    // Serialise rows, `row_bytes` each, slice after slice.
    void (*encode)(RowsView table, const Slice* slices, size_t num_slices, const uint32_t* rows, size_t n,
                   uint8_t* encoded, size_t row_bytes);
    // Terms (B, 2) of a factorization machine: sum of component 0 over the rows, and sum over all pairs of rows of the
    // dot product of components 1 and up.
    void (*factorize)(const PooledRows& rows, float* terms);
    void (*factorize_back)(const PooledRows& rows, const float* grad_terms, const GradientsOfRows& out);
    // Dot products of all pairs of rows, (B, P): row 0 with rows 1.., then row 1 with rows 2.., and so on. `scratch`
    // holds F, rounded up to 16, times the greater of D and F.
    void (*dots)(const PooledRows& rows, float* pairs, float* scratch);
    void (*dots_back)(const PooledRows& rows, const float* grad_pairs, const GradientsOfRows& out, float* scratch);
    ReplicaKernels replica;
    TowerKernels tower;
    DenseKernels dense;
};

const Kernels& kernels();
std::string simd_level();                      // "avx512" | "avx2" | "portable"
std::vector<std::string> simd_levels();        // available levels, best first
bool set_simd_level(const std::string& name);  // false: not available on this machine

}  // namespace monolith
