#include "ranking/experts.hpp"

#include <algorithm>
#include <stdexcept>

namespace monolith::ranking {

namespace {

// Scratch memory of the thread, apart from that of the layers.
struct Weights {
    float values;
};
struct Joined {
    float values;
};
struct Chosen {
    uint32_t number;
};

}  // namespace

Experts::Experts(const GateShape& shape, DenseStack scores, std::vector<Top> experts, std::vector<float> biases,
                 size_t num_shared)
    : shape_(shape),
      scores_(std::move(scores)),
      experts_(std::move(experts)),
      biases_(std::move(biases)),
      num_shared_(num_shared) {
    if (experts_.size() != shape.experts || biases_.size() != shape.tasks)
        throw std::invalid_argument("experts and biases must be those of the gates");
    if (scores_.width() < size_t{shape.tasks} * shape.num_scores())
        throw std::invalid_argument("outputs of the gates' layer must be their scores");
}

size_t Experts::start_width() const {
    size_t width = scores_.start_width();
    for (const Top& expert : experts_) width += expert.start_width();
    return width;
}

void Experts::begin(std::vector<float>& shared, float* start) const {
    // The gates first: they read inputs that an expert in bf16 would round.
    shared.resize(std::max(shared.size(), scores_.shared_in()), 0.0f);
    scores_.begin(shared.data(), start);
    start += scores_.start_width();
    for (const Top& expert : experts_) {
        expert.begin(shared, start);
        start += expert.start_width();
    }
}

size_t Experts::choose(const float* weights, size_t n, size_t expert, uint32_t* chosen) const {
    const size_t tasks = shape_.tasks, experts = shape_.experts;
    size_t num = 0;
    for (size_t i = 0; i < n; ++i) {
        bool any = false;
        for (size_t t = 0; t < tasks; ++t) any |= weights[(i * tasks + t) * experts + expert] != 0;
        chosen[num] = static_cast<uint32_t>(i);
        num += any;
    }
    return num;
}

void Experts::run(const std::vector<float>& shared, float* inputs, size_t stride, size_t width, size_t n,
                  const float* start, float* logits) const {
    static thread_local std::vector<float> leaves;
    const size_t tasks = shape_.tasks, experts = shape_.experts, gate = tasks * experts;
    float* const weights = &thread_scratch<Weights>(n * gate)->values;
    const float* const scores = scores_.run(inputs, n, start);
    for (size_t i = 0; i < n; ++i) weigh(shape_, scores + i * scores_.width(), leaves, weights + i * gate);
    start += scores_.start_width();
    for (size_t i = 0; i < n; ++i) std::copy_n(biases_.data(), tasks, logits + i * tasks);

    const bool has_stacks = experts_.front().has_stacks();
    const size_t common = has_stacks ? num_shared_ : 0, row = has_stacks ? common + width : stride;
    float* const joined = &thread_scratch<Joined>(n * row)->values;
    uint32_t* const chosen = &thread_scratch<Chosen>(n + 1)->number;
    for (size_t e = 0; e < experts; ++e) {
        const Top& expert = experts_[e];
        const size_t num = choose(weights, n, e, chosen);
        if (num > 0) {
            float* values = num == n && !has_stacks ? inputs : joined;
            if (values == joined)
                for (size_t c = 0; c < num; ++c) {
                    std::copy_n(shared.data(), common, joined + c * row);
                    std::copy_n(inputs + chosen[c] * stride, row - common, joined + c * row + common);
                }
            const float* const outputs = has_stacks
                                             ? expert.run_stacks({{joined}, {static_cast<uint32_t>(row)}}, num, start)
                                             : expert.run(values, num, start);
            for (size_t c = 0; c < num; ++c)
                for (size_t t = 0; t < tasks; ++t)
                    logits[chosen[c] * tasks + t] +=
                        weights[(chosen[c] * tasks + t) * experts + e] * outputs[c * expert.width() + t];
        }
        start += expert.start_width();
    }
}

}  // namespace monolith::ranking
