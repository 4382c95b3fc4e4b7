# RANKING: sources of the path from a request's bytes to its scores.
file(GLOB RANKING CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cpp)
