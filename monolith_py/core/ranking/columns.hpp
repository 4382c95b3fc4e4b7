// Columns of features, read from their bytes.
#pragma once

#include <cstddef>
#include <string_view>

#include "ranking/order.hpp"

namespace monolith::ranking {

// Read n rows of monolith.v1.FeatureColumns into rows in the given order; absent features are empty bags or zeros.
// Returns false for columns that break a rule, or are in another form than the usual serializers write.
bool read_columns(std::string_view message, const ColumnOrder& order, size_t num_rows, size_t max_fids, Rows& rows);

}  // namespace monolith::ranking
