// Guard of insertions: a batch that fails leaves no half-made rows.
#pragma once

#include <vector>

#include "table/insertion.hpp"

namespace monolith {

// Abandons the insertions that are not finished at the end of the scope.
struct AbandonInsertions {
    std::vector<Insertion*> insertions;
    ~AbandonInsertions() {
        for (Insertion* insertion : insertions) insertion->abandon();
    }
};

}  // namespace monolith
