#include "ranking/cross_network.hpp"

#include <algorithm>
#include <numeric>

#include "memory/pool.hpp"

namespace monolith::ranking {

namespace {

// Scratch memory of the thread, apart from that of the layers.
struct Crossed {
    float values;
};

std::vector<uint32_t> range(size_t first, size_t last) {
    std::vector<uint32_t> places(last - first);
    std::iota(places.begin(), places.end(), static_cast<uint32_t>(first));
    return places;
}

}  // namespace

CrossNetwork::CrossNetwork(std::span<const std::vector<LayerWeights>> layers, std::span<const LayerWeights> beside,
                           size_t shared, size_t candidate)
    : shared_(shared), candidate_(candidate) {
    for (const std::vector<LayerWeights>& product : layers) {
        const size_t first = products_.empty() ? shared_ : 0;  // later layers share no input
        products_.emplace_back(product, range(0, first), range(first, width()));
    }
    if (!beside.empty()) beside_.emplace_back(beside, range(0, 0), range(0, width()));
}

void CrossNetwork::begin(float* shared, std::vector<float>& start) const {
    start.resize(products_.front().start_width());
    products_.front().begin(shared, start.data());
}

float* CrossNetwork::run(const float* shared, const float* candidate, size_t stride, size_t n,
                         const float* start) const {
    const size_t wide = even(width()), own = even(candidate_);
    float* const first = &thread_scratch<Crossed>(n * (2 * wide + own))->values;
    float *const outputs = first + n * wide, *const inputs = outputs + n * wide;
    for (size_t i = 0; i < n; ++i) {
        float* const row = first + i * wide;
        std::copy_n(shared, shared_, row);
        std::copy_n(candidate + i * stride, candidate_, row + shared_);
        std::fill(row + width(), row + wide, 0.0f);
        std::copy_n(row + shared_, candidate_, inputs + i * own);
        std::fill(inputs + i * own + candidate_, inputs + (i + 1) * own, 0.0f);
    }
    std::copy_n(first, n * wide, outputs);
    std::vector<float> biases;
    for (size_t l = 0; l < products_.size(); ++l) {
        const DenseStack& product = products_[l];
        if (l > 0) {
            biases.resize(product.start_width());
            product.begin(nullptr, biases.data());
        }
        const float* const made = product.run(l == 0 ? inputs : outputs, n, l == 0 ? start : biases.data());
        for (size_t i = 0; i < n; ++i) {
            const float *const x0 = first + i * wide, *const sums = made + i * product.width();
            float* const x = outputs + i * wide;
            for (size_t j = 0; j < width(); ++j) x[j] += x0[j] * sums[j];
        }
    }
    return outputs;
}

void CrossNetwork::add_head(float* outputs, size_t n, size_t tasks, float* logits) const {
    const DenseStack& head = beside_.front();
    std::vector<float> none(head.start_width());
    head.begin(nullptr, none.data());
    const float* const made = head.run(outputs, n, none.data());
    for (size_t i = 0; i < n; ++i)
        for (size_t t = 0; t < tasks; ++t) logits[i * tasks + t] += made[i * head.width() + t];
}

}  // namespace monolith::ranking
