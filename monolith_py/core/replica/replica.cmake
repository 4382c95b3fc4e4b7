# REPLICA: sources of a replica's rows.
file(GLOB REPLICA CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cpp)
