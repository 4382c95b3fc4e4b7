# CODEC: wire formats of impressions and examples.
file(GLOB CODEC CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cpp)
