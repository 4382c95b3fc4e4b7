// Conversion of a saved row to a table with other optimizers: weights stay, state of another rule starts anew.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "bytes/archive.hpp"
#include "kernels/kernels.hpp"
#include "kernels/settings.hpp"

namespace monolith {

// The z at which the step of FTRL (McMahan et al. 2013, algorithm 1) or group FTRL (Ni et al. 2021, algorithm 1) gives
// the weights `w`: with z = 0 the first update of a row would lose them.
inline void fit_ftrl(const Slice& slice, const float* w, float* z) {
    const Hyperparameters& h = slice.hyperparameters;
    if (h.lr == 0) return;
    const bool is_group = slice.optimizer == Optimizer::kGroupFtrl;
    float square = 0;
    for (uint32_t d = 0; d < slice.dim; ++d) square += w[d] * w[d];
    const float threshold = is_group ? h.l2 * std::sqrt(static_cast<float>(slice.dim)) : 0;
    const float penalty = is_group ? (square > 0 ? threshold / std::sqrt(square) : 0) : h.l2;
    const float factor = (h.beta + std::sqrt(h.initial_accumulator)) / h.lr + penalty;
    for (uint32_t d = 0; d < slice.dim; ++d)
        z[d] = w[d] == 0 ? 0 : -std::copysign(h.l1 + std::fabs(w[d]) * factor, w[d]);
}

// Reads saved rows into rows of a table whose slices have the names and dims of the saved ones. One for each thread.
class RowConversion {
  public:
    RowConversion(const TableSettings& table, const TableSettings& saved)
        : table_(table), saved_(laid_out(saved)), weights_(table.dim()), saved_state_(state_width(saved)) {
        for (size_t i = 0; i < table.slices.size(); ++i)
            is_same_ &= table.slices[i].optimizer == saved.slices[i].optimizer;
    }

    void read(Reader& entries, float* weights, float* state) {
        entries.bytes(weights, table_.dim() * sizeof(float));
        if (is_same_) return entries.bytes(state, saved_state_.size() * sizeof(float));
        entries.bytes(saved_state_.data(), saved_state_.size() * sizeof(float));
        kernels().start_row(table_.slices.data(), table_.slices.size(), 0, weights_.data(), state);
        for (size_t i = 0; i < table_.slices.size(); ++i) {
            const Slice &own = table_.slices[i], &before = saved_.slices[i];
            if (own.optimizer == before.optimizer)
                std::copy_n(saved_state_.data() + before.state_at, state_width(own), state + own.state_at);
            else if (own.optimizer == Optimizer::kFtrl || own.optimizer == Optimizer::kGroupFtrl)
                fit_ftrl(own, weights + own.weights_at, state + own.state_at);
        }
    }
    void skip(Reader& entries) const { entries.skip(row_bytes()); }
    size_t row_bytes() const { return (table_.dim() + saved_state_.size()) * sizeof(float); }

  private:
    const TableSettings& table_;
    TableSettings saved_;
    bool is_same_ = true;
    std::vector<float> weights_, saved_state_;
};

}  // namespace monolith
