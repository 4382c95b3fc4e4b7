#include "ranking/model.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "kernels/kernels.hpp"

namespace monolith::ranking {

namespace {

// Scratch memory of the thread, apart from that of the layers.
struct Terms {
    float values;
};
struct Stacked {
    float values;
};
struct Padded {
    float values;
};
template <typename Use>
float* scratch_for(size_t count) {
    return &thread_scratch<Use>(count)->values;
}

// Turn the logits of one link and candidate into scores.
void apply(const Link& link, float* values) {
    if (link.kind == LinkKind::kSoftmax) {
        float greatest = 0;  // of one more class, none of them, whose logit is 0
        for (uint32_t i = 0; i < link.size; ++i) greatest = std::max(greatest, values[i]);
        float sum = std::exp(-greatest);
        for (uint32_t i = 0; i < link.size; ++i) sum += values[i] = std::exp(values[i] - greatest);
        for (uint32_t i = 0; i < link.size; ++i) values[i] /= sum;
        return;
    }
    for (uint32_t i = 0; i < link.size; ++i) {
        if (link.kind == LinkKind::kSigmoid)
            values[i] = 1.0f / (1.0f + std::exp(-values[i]));
        else if (!(values[i] > 0))
            values[i] = std::isnan(values[i]) ? values[i] : 0;
        else if (link.kind == LinkKind::kLog1p)
            values[i] = std::expm1(values[i]);
    }
}

}  // namespace

Model::Model(const ModelShape& shape) : shape_(shape) {}

size_t Model::shared_inputs() const {
    const size_t rows = size_t{shared_rows()} * shape_.dim;
    return rows + (shape_.kind == Kind::kDlrm ? num_pairs(shared_rows()) : shape_.shared_dense);
}

size_t Model::candidate_inputs() const {
    const size_t own = candidate_rows(), rows = own * shape_.dim;
    if (shape_.kind != Kind::kDlrm) return rows + shape_.candidate_dense;
    return rows + own * shared_rows() + num_pairs(own);
}

void Model::set_top(std::span<const LayerWeights> layers, std::span<const uint32_t> shared,
                    std::span<const uint32_t> candidate, std::vector<const TowerStack*> stacks) {
    stacks_ = std::move(stacks);
    if (shape_.kind == Kind::kDcn && !cross_)
        throw std::invalid_argument("the top of a DCN must come after its cross layers");
    const size_t num_shared = reads_cross() ? 0 : shared_inputs();
    const size_t num_own = shared_inputs() + candidate_inputs() - num_shared;
    if (stacks_.empty() && (shared.size() != num_shared || candidate.size() != num_own))
        throw std::invalid_argument("columns of the first layer must be those of the model's inputs");
    if (!stacks_.empty() && stacks_.front()->in() != shared_inputs() + candidate_inputs())
        throw std::invalid_argument("inputs of the tower must be those of the model");
    top_.emplace(layers, shared, candidate);
}

void Model::add_attention(Attention attention) {
    if (attentions_.size() >= shape_.candidate_features)
        throw std::invalid_argument("rows of attention must be features of the candidates");
    num_sequence_rows_ += attention.place().length;
    attentions_.push_back(std::move(attention));
}

// Take the rows of sequences out of the shared ones.
void Model::begin_attention(SharedPart& part) const {
    const size_t dim = shape_.dim;
    part.sequences.resize(attentions_.size());
    for (size_t a = 0; a < attentions_.size(); ++a) attentions_[a].begin(part.inputs.data(), part.sequences[a]);
    uint32_t kept = 0;
    for (uint32_t r = 0; r < pooled_shared(); ++r) {
        const bool is_taken = std::any_of(attentions_.begin(), attentions_.end(), [&](const Attention& one) {
            return r >= one.place().start && r < one.place().start + one.place().length;
        });
        if (is_taken) continue;
        std::copy_n(part.inputs.data() + r * dim, dim, part.inputs.data() + kept++ * dim);
    }
    std::fill(part.inputs.begin() + static_cast<std::ptrdiff_t>(kept * dim), part.inputs.end(), 0.0f);
}

void Model::set_experts(Experts experts, size_t num_own) {
    if (shape_.kind == Kind::kDcn && !reads_cross())
        throw std::invalid_argument("the experts of a DCN must come after its cross layers");
    const size_t num_shared = reads_cross() ? 0 : shared_inputs();
    if (experts.num_shared() != num_shared || num_own != shared_inputs() + candidate_inputs() - num_shared)
        throw std::invalid_argument("columns of the experts must be those of the model's inputs");
    experts_.emplace(std::move(experts));
}

void Model::set_bottom(std::span<const LayerWeights> layers, std::span<const uint32_t> shared,
                       std::span<const uint32_t> candidate) {
    if (shared.size() != shape_.shared_dense || candidate.size() != shape_.candidate_dense)
        throw std::invalid_argument("columns of the bottom tower must be those of the dense features");
    bottom_.emplace(layers, shared, candidate);
}

void Model::begin(const float* dense, SharedPart& part) const {
    const uint32_t dim = shape_.dim, num = shared_rows();
    if (!attentions_.empty()) begin_attention(part);
    part.inputs.resize(std::max(part.inputs.size(), even(shared_inputs())));
    if (has_bottom()) {
        std::vector<float> values(bottom_->shared_in());
        std::copy_n(dense, shape_.shared_dense, values.data());
        part.bottom_start.resize(bottom_->start_width());
        bottom_->begin(values.data(), part.bottom_start.data());
        if (bottom_is_shared()) {
            const float* const row = bottom_->run(nullptr, 1, part.bottom_start.data());
            std::copy_n(row, dim, part.inputs.data() + size_t{num - 1} * dim);
        }
    }
    if (shape_.kind != Kind::kDlrm) std::copy_n(dense, shape_.shared_dense, part.inputs.data() + size_t{num} * dim);
    begin_interaction(part);
    if (experts_) {
        part.start.resize(experts_->start_width());
        experts_->begin(part.inputs, part.start.data());
        return;
    }
    part.start.resize(top_->start_width());
    if (stacks_.empty() && !reads_cross()) {
        part.inputs.resize(top_->shared_in(), 0.0f);
        std::vector<float> inputs = part.inputs;  // a layer in bf16 rounds them, and cross layers read them later
        top_->begin(inputs.data(), part.start.data());
    } else {
        top_->begin(nullptr, part.start.data());
    }
}

void Model::begin_interaction(SharedPart& part) const {
    const uint32_t dim = shape_.dim, num = shared_rows();
    float* const rows = part.inputs.data();
    if (shape_.kind == Kind::kDcn) {
        part.inputs.resize(even(shared_inputs()), 0.0f);
        cross_->begin(part.inputs.data(), part.cross_start);
    } else if (shape_.kind == Kind::kDeepFm) {
        part.rows.assign(dim, 0.0f);
        part.pairs = 0;
        for (uint32_t r = 0; r < num; ++r)
            for (uint32_t d = 0; d < dim; ++d) {
                const float value = rows[size_t{r} * dim + d];
                if (d > 0) part.pairs += value * part.rows[d];
                part.rows[d] += value;
            }
    } else {
        part.rows.assign(dim * padded(num), 0.0f);
        float* dots = rows + size_t{num} * dim;
        for (uint32_t r = 0; r < num; ++r) {
            for (uint32_t d = 0; d < dim; ++d) part.rows[d * padded(num) + r] = rows[size_t{r} * dim + d];
            for (uint32_t q = 0; q < r; ++q) {
                *dots = 0;
                for (uint32_t d = 0; d < dim; ++d) *dots += rows[size_t{r} * dim + d] * rows[size_t{q} * dim + d];
                ++dots;
            }
        }
    }
}

void Model::interact(const SharedPart& part, float* inputs, const float* dense, size_t n, float* terms) const {
    const size_t rows = size_t{candidate_rows()} * shape_.dim;
    const CandidateRows own{inputs, n, stride(), candidate_rows(), shape_.dim, shared_rows(), part.rows.data()};
    if (shape_.kind != Kind::kDlrm)
        for (size_t i = 0; i < n; ++i)
            std::copy_n(dense + i * shape_.candidate_dense, shape_.candidate_dense, inputs + i * stride() + rows);
    if (shape_.kind == Kind::kDeepFm) {
        kernels().dense.factorize_after(own, terms);
        for (size_t i = 0; i < n; ++i) terms[2 * i + 1] += part.pairs;
    } else if (shape_.kind == Kind::kDlrm) {
        if (has_bottom() && !bottom_is_shared()) {
            const size_t width = bottom_->in();
            float* const values = scratch_for<Padded>(n * width);
            std::fill_n(values, n * width, 0.0f);
            for (size_t i = 0; i < n; ++i)
                std::copy_n(dense + i * shape_.candidate_dense, shape_.candidate_dense, values + i * width);
            const float* const made = bottom_->run(values, n, part.bottom_start.data());
            for (size_t i = 0; i < n; ++i)
                std::copy_n(made + i * bottom_->width(), shape_.dim, inputs + i * stride() + rows - shape_.dim);
        }
        kernels().dense.cross_dots(own, inputs + rows, stride());
    }
    if (stride() > candidate_inputs())
        for (size_t i = 0; i < n; ++i) inputs[i * stride() + candidate_inputs()] = 0;
}

float* Model::run_stacks(const SharedPart& part, const float* inputs, size_t n) const {
    const size_t width = reads_cross() ? 0 : shared_inputs();
    size_t widest = 0;
    for (const TowerStack* stack : stacks_) widest = std::max<size_t>(widest, even(stack->out()));
    float* const memory = scratch_for<Stacked>(n * (width + 2 * widest));
    for (size_t i = 0; i < n; ++i) std::copy_n(part.inputs.data(), width, memory + i * width);
    float* outputs = nullptr;
    for (size_t s = 0; s < stacks_.size(); ++s) {
        const TowerStack& stack = *stacks_[s];
        Columns<const float> columns{{memory, inputs},
                                     {static_cast<uint32_t>(width), static_cast<uint32_t>(stack.in() - width)}};
        if (s > 0 || width == 0) columns = {{s > 0 ? outputs : inputs}, {stack.in()}};
        outputs = memory + n * (width + s % 2 * widest);
        stack.forward(columns, n, outputs);
    }
    const size_t out = stacks_.back()->out();
    if (top_->in() == out) return outputs;
    float* const wide = scratch_for<Padded>(n * top_->in());
    std::fill_n(wide, n * top_->in(), 0.0f);
    for (size_t i = 0; i < n; ++i) std::copy_n(outputs + i * out, out, wide + i * top_->in());
    return wide;
}

void Model::run_top(const SharedPart& part, float* inputs, float* crossed, size_t n, float* logits) const {
    if (reads_cross()) {
        const size_t width = cross_->width();
        if (!stacks_.empty() && width % 2 == 1)  // stacks read inputs without padding
            for (size_t i = 1; i < n; ++i) std::copy_n(crossed + i * even(width), width, crossed + i * width);
        inputs = crossed;
    }
    if (!stacks_.empty()) inputs = run_stacks(part, inputs, n);
    const float* const outputs = top_->run(inputs, n, part.start.data());
    for (size_t i = 0; i < n; ++i) std::copy_n(outputs + i * top_->width(), shape_.tasks, logits + i * shape_.tasks);
}

void Model::score(const SharedPart& part, float* inputs, const float* dense, size_t n, float* logits) const {
    const uint32_t tasks = shape_.tasks;
    float* const terms = scratch_for<Terms>(2 * n);
    for (size_t a = 0; a < attentions_.size(); ++a)
        attentions_[a].run(part.sequences[a], inputs, stride(), n, inputs + (pooled_own() + a) * shape_.dim);
    interact(part, inputs, dense, n, terms);
    float* crossed = nullptr;
    if (cross_) crossed = cross_->run(part.inputs.data(), inputs, stride(), n, part.cross_start.data());
    if (experts_) {
        const size_t width = reads_cross() ? cross_->width() : candidate_inputs();
        float* const own = reads_cross() ? crossed : inputs;
        experts_->run(part.inputs, own, reads_cross() ? even(width) : stride(), width, n, part.start.data(), logits);
    } else {
        run_top(part, inputs, crossed, n, logits);
    }
    if (cross_ && cross_->is_parallel()) cross_->add_head(crossed, n, tasks, logits);
    if (shape_.kind != Kind::kDeepFm) return;
    for (size_t i = 0; i < n; ++i)
        for (uint32_t t = 0; t < tasks; ++t)
            logits[i * tasks + t] += terms[2 * i] * scales_[t] + terms[2 * i + 1] * scales_[tasks + t];
}

bool Model::to_scores(float* logits, size_t n) const {
    bool is_finite = true;
    const size_t num = n * shape_.tasks;
    if (links_.empty()) {
        for (size_t i = 0; i < num; ++i) logits[i] = 1.0f / (1.0f + std::exp(-logits[i]));
    } else {
        for (float* next = logits; next != logits + num;)
            for (const Link& link : links_) {
                apply(link, next);
                next += link.size;
            }
    }
    for (size_t i = 0; i < num; ++i) is_finite &= std::isfinite(logits[i]);
    return is_finite;
}

}  // namespace monolith::ranking
