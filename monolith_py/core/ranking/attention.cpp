#include "ranking/attention.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace monolith::ranking {

namespace {

// Scratch memory of the thread, apart from that of the layers.
struct Pairs {
    float values;
};

std::vector<uint32_t> columns(uint32_t first, uint32_t num) {
    std::vector<uint32_t> found(num);
    std::iota(found.begin(), found.end(), first);
    return found;
}

bool is_zero(const float* row, size_t dim) {
    return std::all_of(row, row + dim, [](float value) { return value == 0; });
}

}  // namespace

Attention::Attention(std::span<const LayerWeights> layers, uint32_t dim, const AttentionPlace& place)
    : dim_(dim), place_(place), layers_(layers, columns(0, dim), columns(dim, 2 * dim)) {
    if (layers.front().in != 3 * dim || layers.back().out != 1)
        throw std::invalid_argument("layers of an attention must map 3 rows to one weight");
}

void Attention::begin(const float* shared, SequencePart& part) const {
    part.rows.clear();
    part.starts.clear();
    if (place_.target_is_shared) part.target.assign(shared + place_.target * dim_, shared + (place_.target + 1) * dim_);
    std::vector<float> values(even(dim_));
    for (uint32_t r = place_.start; r < place_.start + place_.length; ++r) {
        const float* const row = shared + size_t{r} * dim_;
        if (is_zero(row, dim_)) continue;  // whatever its weight, it adds nothing
        std::copy_n(row, dim_, values.data());
        part.rows.insert(part.rows.end(), row, row + dim_);
        part.starts.resize(part.starts.size() + layers_.start_width());
        layers_.begin(values.data(), part.starts.data() + part.starts.size() - layers_.start_width());
    }
}

void Attention::run(const SequencePart& part, const float* own, size_t stride, size_t n, float* out) const {
    const size_t in = layers_.in(), num = part.rows.size() / dim_;
    float* const pairs = &thread_scratch<Pairs>(n * in)->values;
    std::fill_n(pairs, n * in, 0.0f);
    for (size_t i = 0; i < n; ++i) std::fill_n(out + i * stride, dim_, 0.0f);
    for (size_t l = 0; l < num; ++l) {
        const float* const row = part.rows.data() + l * dim_;
        for (size_t i = 0; i < n; ++i) {
            const float* const target =
                place_.target_is_shared ? part.target.data() : own + i * stride + size_t{place_.target} * dim_;
            float* const pair = pairs + i * in;
            for (size_t d = 0; d < dim_; ++d) {
                pair[d] = target[d];
                pair[dim_ + d] = target[d] * row[d];
            }
        }
        const float* const weights = layers_.run(pairs, n, part.starts.data() + l * layers_.start_width());
        for (size_t i = 0; i < n; ++i)
            for (size_t d = 0; d < dim_; ++d) out[i * stride + d] += weights[i * layers_.width()] * row[d];
    }
}

}  // namespace monolith::ranking
