// Pooled look-up and its backward over the tables of all features in one call.
#pragma once

#include <cstdint>
#include <vector>

#include "embedding_table.hpp"

namespace monolith {

struct Feature {
    EmbeddingTable* table;
    bool mean;
};

// Letters: F features, B rows, n fids. Fids are feature-major; bag f * B + b is offsets[f * B + b] .. offsets[f * B + b
// + 1].
inline void pooled_forward(const std::vector<Feature>& features, const int64_t* fids, const int64_t* offsets,
                           size_t num_bags, int64_t now_s, bool insert, size_t width, float* pooled, uint32_t* rows) {
    size_t column = 0;
    for (size_t f = 0; f < features.size(); ++f) {
        EmbeddingTable& table = *features[f].table;
        const int64_t* bags = offsets + f * num_bags;
        const int64_t first = bags[0], last = bags[num_bags];
        if (insert)
            table.find_or_insert(fids + first, last - first, now_s, rows + first);
        else
            table.find(fids + first, last - first, rows + first);
        const uint32_t dim = table.dim();
        for (size_t b = 0; b < num_bags; ++b) {
            float* out = pooled + b * width + column;
            std::fill(out, out + dim, 0.0f);
            for (int64_t i = bags[b]; i < bags[b + 1]; ++i) {
                if (rows[i] >= kCandidate) continue;
                const float* weights = table.weights(rows[i]);
                for (uint32_t d = 0; d < dim; ++d) out[d] += weights[d];
            }
            if (const int64_t length = bags[b + 1] - bags[b]; features[f].mean && length > 1)
                for (uint32_t d = 0; d < dim; ++d) out[d] /= static_cast<float>(length);
        }
        column += dim;
    }
}

// Return how many rows were updated.
inline size_t pooled_backward(const std::vector<Feature>& features, const uint32_t* rows, const int64_t* offsets,
                              size_t num_bags, size_t width, const float* gradients) {
    std::vector<bool> done(features.size(), false);
    std::vector<size_t> columns(features.size(), 0);
    for (size_t f = 1; f < features.size(); ++f) columns[f] = columns[f - 1] + features[f - 1].table->dim();
    struct Source {
        const float* gradient;
        float scale;
    };
    std::vector<uint32_t> table_rows;
    std::vector<Source> sources;
    size_t num_updated = 0;
    for (size_t f = 0; f < features.size(); ++f) {
        if (done[f]) continue;
        table_rows.clear();
        sources.clear();
        EmbeddingTable& table = *features[f].table;
        for (size_t g = f; g < features.size(); ++g) {  // all features of this table in one step
            if (features[g].table != &table) continue;
            done[g] = true;
            const int64_t* bags = offsets + g * num_bags;
            for (size_t b = 0; b < num_bags; ++b) {
                const int64_t length = bags[b + 1] - bags[b];
                const float scale = features[g].mean && length > 1 ? 1.0f / static_cast<float>(length) : 1.0f;
                for (int64_t i = bags[b]; i < bags[b + 1]; ++i) {
                    table_rows.push_back(rows[i]);
                    sources.push_back({gradients + b * width + columns[g], scale});
                }
            }
        }
        const uint32_t dim = table.dim();
        num_updated += table.update(table_rows.data(), table_rows.size(), [&](uint32_t i, float* sum) {
            const Source source = sources[i];
            for (uint32_t d = 0; d < dim; ++d) sum[d] += source.scale * source.gradient[d];
        });
    }
    return num_updated;
}

}  // namespace monolith
