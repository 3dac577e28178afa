CREATE TABLE `codes` (
  `code` char(36) CHARACTER SET ascii COLLATE ascii_general_ci NOT NULL,
  `n` bigint unsigned NOT NULL AUTO_INCREMENT,
  PRIMARY KEY (`code`),
  KEY `counter` (`n`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_ai_ci;
