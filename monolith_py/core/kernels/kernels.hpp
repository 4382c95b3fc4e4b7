// The hot loops, built once for each instruction set and picked at run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "index/bucket.hpp"
#include "kernels/settings.hpp"
#include "kernels/tower_kernels.hpp"

namespace monolith {

// Rows by id: row r begins at weights + r * dim, its state at state + r * state_width.
struct RowsView {
    float* weights;
    float* state;
    uint32_t dim, state_width;
};

// One bag is a run of positions; what is looked up at a position is its row, NO_ROW where there is none.
enum class Pooling : uint32_t { kSum, kMean, kFirst };

struct PoolJob {
    RowsView table;
    const uint32_t* rows;    // by position
    const int64_t* offsets;  // of the bags, (num_bags + 1,), positions
    const float* scales;     // by position; null: all one
    size_t begin, end;       // bags
    Pooling pooling;
    uint32_t first;  // of kFirst: rows of a bag that are kept
    float* pooled;   // where bag 0 goes
    size_t stride;   // floats from one bag to the next
};

// Where the gradients of an update are: of position i at base + i * stride, or at gradients[i], times scales[i].
struct Gradients {
    const float* base;
    size_t stride;
    const float* const* gradients;  // null: strided and unscaled
    const float* scales;
};

struct UpdateJob {
    RowsView table;
    const Slice* slices;
    size_t num_slices;
    Gradients gradients;
    const uint64_t* order;  // row << 32 | position, sorted by row; equal rows in the order in which they are summed
    size_t n;
    float* sum;         // room for one row
    uint32_t* updated;  // out: the rows, each once; room for n
    uint32_t* zeroed;   // out: those of them whose weights are all zero now; null: nobody asks
    size_t num_zeroed;  // out
};

// Pooled rows of the examples [begin, end), feature by feature: (B, F * D).
struct PooledRows {
    const float* pooled;
    uint32_t num_features, dim;
    size_t begin, end;

    size_t width() const { return size_t{num_features} * dim; }
};

// Where the gradients of pooled rows go, (B, F * D). What others send back to the same rows, at beside + b *
// beside_stride, is added; it may be `gradients` itself. Null: there is none.
struct GradientsOfRows {
    const float* beside;
    size_t beside_stride;
    float* gradients;
    bool past_cache;  // rows of 16 components begin lines, and all are more than caches near a core hold
};

inline size_t num_pairs(size_t num_features) { return num_features * (num_features - 1) / 2; }

struct Kernels {
    // The row of each fid, NO_ROW where there is none or it is not admitted.
    void (*find)(MapView map, const int64_t* fids, size_t n, uint32_t* rows);
    // The same for the fids of shards [begin, end), for which it also counts the sighting and stamps it; the others'
    // rows are left alone. Positions of fids without a row are returned in `missed`, in order.
    size_t (*record_occurrences)(MapView map, const int64_t* fids, size_t n, size_t begin, size_t end, uint16_t now,
                                 uint32_t* rows, uint32_t* missed);
    // Copy rows; zeros for NO_ROW.
    void (*gather)(RowsView table, const uint32_t* rows, size_t n, float* weights);
    void (*pool)(const PoolJob& job);
    // row << 32 | position, of the rows that hash to part `part` of `parts`, sorted by row and then by position.
    // `order` and `room` hold n each; returns the one of them that has the result, and its length in `num`.
    uint64_t* (*sort_rows)(const uint32_t* rows, size_t n, size_t part, size_t parts, uint64_t* order,
                           uint64_t* scratch, size_t* num);
    // Sum the gradients of each row and take one step; returns the number of rows.
    size_t (*update)(UpdateJob& job);
    // Start values and state of a row, a pure function of `bits`, the fid's seeded hash.
    void (*start_row)(const Slice* slices, size_t num_slices, uint64_t bits, float* weights, float* state);
    // Whether all values are numbers below 2^48 in size: the square of a sum over a batch is finite too.
    bool (*all_bounded)(const float* values, size_t n);
    // Rows as bytes, `row_bytes` each, slices one after the other.
    void (*encode)(RowsView table, const Slice* slices, size_t num_slices, const uint32_t* rows, size_t n,
                   uint8_t* encoded, size_t row_bytes);
    // Terms (B, 2) of a factorization machine: the sum of the rows' components 0, and the sum of the dot products of
    // all pairs of rows, of the components from 1 on.
    void (*factorize)(const PooledRows& rows, float* terms);
    void (*factorize_back)(const PooledRows& rows, const float* grad_terms, const GradientsOfRows& out);
    // Dot products of all pairs of rows, (B, P): of row 0 with those after it, then of row 1, and so on. `room` holds
    // F rounded up to 16 times the greater of D and F.
    void (*dots)(const PooledRows& rows, float* pairs, float* scratch);
    void (*dots_back)(const PooledRows& rows, const float* grad_pairs, const GradientsOfRows& out, float* scratch);
    TowerKernels tower;
};

const Kernels& kernels();
std::string simd_level();                      // "avx512" | "avx2" | "portable"
std::vector<std::string> simd_levels();        // what this machine has, the best first
bool set_simd_level(const std::string& name);  // false: this machine does not have it

}  // namespace monolith
