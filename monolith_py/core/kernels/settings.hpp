// Settings of a table: slices with their optimizer, initializer and encoding; admission, TTL and memory budget.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace monolith {

enum class Optimizer : uint32_t {
    kSgd,
    kMomentum,
    kAdagrad,
    kRowwiseAdagrad,
    kAdadelta,
    kRmsprop,
    kAdam,
    kAmsgrad,
    kAdamW,
    kFtrl,
    kGroupAdagrad,
    kGroupFtrl,
};

// Hyperparameters of all rules; each rule uses some. Only floats, so equal bytes mean equal settings.
struct Hyperparameters {
    float lr = 0.01f, eps = 1e-8f, initial_accumulator = 0, beta1 = 0.9f, beta2 = 0.999f, l1 = 0, l2 = 0, beta = 0;
    float momentum = 0.9f, nesterov = 0, rho = 0.9f, weight_decay = 0, clip_norm = 0;  // clip_norm 0: none
};

enum class Initializer : uint32_t { kZeros, kConstant, kUniform, kNormal, kXavier };

enum class Encoding : uint32_t { kFp32, kFp16, kInt8, kInt4 };

// Encoded bytes of `dim` weights.
constexpr uint32_t encoded_bytes(Encoding encoding, uint32_t dim) {
    switch (encoding) {
        case Encoding::kFp32:
            return 4 * dim;
        case Encoding::kFp16:
            return 2 * dim;
        case Encoding::kInt8:
            return 4 + dim;
        case Encoding::kInt4:
            return 4 + (dim + 1) / 2;
    }
    return 0;
}

struct Slice {
    std::string name;
    uint32_t dim = 0;
    Optimizer optimizer = Optimizer::kSgd;
    Hyperparameters hyperparameters;
    Initializer initializer = Initializer::kUniform;
    float init_scale = 0;  // constant; half the width of uniform; standard deviation of normal
    Encoding encoding = Encoding::kFp16;

    uint32_t weights_at = 0, state_at = 0;  // offset in a row, in floats; set by the table
};

// Largest settings of a table. Seconds: 30,000 years, so that sums of times cannot overflow.
constexpr uint32_t kMostDim = 1 << 20;
constexpr int64_t kMostSeconds = int64_t{1} << 40;
constexpr uint64_t kMostSketchBytes = uint64_t{1} << 40;

enum class Admission : uint32_t { kCount, kSketch, kProportional, kGeometric };

enum class Eviction : uint32_t { kNone, kLru, kLfu, kScore };

struct TableSettings {
    std::vector<Slice> slices;
    uint64_t seed = 0;
    Admission admission = Admission::kCount;
    uint32_t admit_after = 1;
    uint64_t sketch_bytes = 0;
    int64_t sketch_window_s = 0;
    int64_t ttl_s = 0;  // 0: rows never expire
    Eviction eviction = Eviction::kNone;
    uint64_t budget_bytes = 0;
    int64_t half_life_s = 0;  // used by kScore

    uint32_t dim() const {
        uint32_t sum = 0;
        for (const Slice& slice : slices) sum += slice.dim;
        return sum;
    }
};

// Floats of optimizer state of a slice in one row.
inline uint32_t state_width(const Slice& slice) {
    switch (slice.optimizer) {
        case Optimizer::kSgd:
            return 0;
        case Optimizer::kMomentum:
        case Optimizer::kAdagrad:
        case Optimizer::kRmsprop:
            return slice.dim;
        case Optimizer::kRowwiseAdagrad:
        case Optimizer::kGroupAdagrad:
            return 1;
        case Optimizer::kAdadelta:
        case Optimizer::kFtrl:
        case Optimizer::kGroupFtrl:
            return 2 * slice.dim;
        case Optimizer::kAdam:
        case Optimizer::kAdamW:
            return 2 * slice.dim + 1;  // m, v, step
        case Optimizer::kAmsgrad:
            return 3 * slice.dim + 1;  // m, v, greatest v, step
    }
    return 0;
}

// Floats of optimizer state of one row.
inline uint32_t state_width(const TableSettings& settings) {
    uint32_t sum = 0;
    for (const Slice& slice : settings.slices) sum += state_width(slice);
    return sum;
}

// The settings with the offsets of every slice filled in.
inline TableSettings laid_out(TableSettings settings) {
    uint32_t weights_at = 0, state_at = 0;
    for (Slice& slice : settings.slices) {
        slice.weights_at = weights_at;
        slice.state_at = state_at;
        weights_at += slice.dim;
        state_at += state_width(slice);
    }
    return settings;
}

// Whether the rule can bring a whole slice to zero.
inline bool zeroes_rows(Optimizer optimizer) {
    return optimizer == Optimizer::kGroupAdagrad || optimizer == Optimizer::kGroupFtrl;
}

}  // namespace monolith
