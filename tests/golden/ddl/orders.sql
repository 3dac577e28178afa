CREATE TABLE `sales``orders` (
  `first` int GENERATED ALWAYS AS (`id` + 1) VIRTUAL,
  `id` bigint unsigned NOT NULL AUTO_INCREMENT,
  `no``te` varchar(50) CHARACTER SET latin1 COLLATE latin1_bin NULL DEFAULT 'new' COMMENT 'it''s\n\\ a note',
  `twice` varchar(9) CHARACTER SET latin1 COLLATE latin1_bin GENERATED ALWAYS AS ((`id` * 2)) STORED NOT NULL /*!80023 INVISIBLE */ COMMENT 'two',
  `thrice` int GENERATED ALWAYS AS ((`id` * 3)) STORED,
  `made` timestamp(3) NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
  `place` point /*!80003 SRID 4326 */ NOT NULL,
  `hidden` int NULL DEFAULT (1 + 1) /*!80023 INVISIBLE */,
  `customer` bigint unsigned NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci COMMENT='all ''of'' it';

ALTER TABLE `sales``orders`
  ADD UNIQUE KEY `by_note` (`no``te`(10) DESC, `id`) COMMENT 'why' /*!80000 INVISIBLE */,
  ADD KEY `computed` ((lower(`no``te`))),
  ADD FULLTEXT KEY `words` (`no``te`),
  ADD SPATIAL KEY `where` (`place`);

ALTER TABLE `sales``orders`
  ADD FULLTEXT KEY `more_words` (`no``te`, `name`);

ALTER TABLE `sales``orders`
  ADD CONSTRAINT `sales``orders_fk` FOREIGN KEY (`customer`) REFERENCES `customers` (`id`) ON DELETE CASCADE ON UPDATE SET NULL,
  ADD CONSTRAINT `sales``orders_ibfk_7` FOREIGN KEY (`customer`) REFERENCES `customers` (`id`);
